"""PrefillShare: several fine-tuned models served over one shared prefill, on SGLang.

Start with `prefillshare launch` on the command line, or
`prefillshare.config.load_deployment` and `prefillshare.serving.launch.running_deployment` from Python.
Importing this package imports nothing heavy.
"""


def __getattr__(name: str) -> str:
    # Reading package metadata takes a tenth of the time that --help may take, so it waits until somebody asks.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("prefillshare")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
