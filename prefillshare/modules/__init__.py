"""What a prefill module and a decode module are on disk.

`fingerprint` names a prefill module by its content, `manifest` is the `prefillshare.json` beside a decode module's
weights, `locate` finds modules on disk or on the hub, and `compatibility` decides whether they may be served together.
"""
