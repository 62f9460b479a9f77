"""Two themes, dark and light; each adds the colours of the tones in `parts`."""

from textual.theme import Theme

DARK = Theme(
    name="prefillshare-dark",
    primary="#7aa2f7",
    secondary="#7dcfff",
    accent="#7aa2f7",
    warning="#e0af68",
    error="#f7768e",
    success="#9ece6a",
    foreground="#c8d0e0",
    background="#14161f",
    surface="#14161f",
    panel="#232736",
    dark=True,
    variables={
        "tone-own": "#7aa2f7",
        "tone-cross": "#9ece6a",
        "tone-missed": "#5b6280",
        "tone-dim": "#8088a2",
        "tone-strong": "#ffffff",
        "frame": "#3a4058",
        "footer-key-foreground": "#7dcfff",
        "footer-background": "#1c202d",
        "block-cursor-text-style": "none",
    },
)
LIGHT = Theme(
    name="prefillshare-light",
    primary="#2f5fd0",
    secondary="#0b7285",
    accent="#2f5fd0",
    warning="#9a5b00",
    error="#c01c3a",
    success="#2b7a0b",
    foreground="#22273a",
    background="#f7f8fb",
    surface="#f7f8fb",
    panel="#e3e7f1",
    dark=False,
    variables={
        "tone-own": "#2f5fd0",
        "tone-cross": "#2b7a0b",
        "tone-missed": "#a9b0c4",
        "tone-dim": "#666e86",
        "tone-strong": "#000000",
        "frame": "#c3c9d9",
        "footer-key-foreground": "#0b7285",
        "footer-background": "#e9ecf4",
        "block-cursor-text-style": "none",
    },
)
