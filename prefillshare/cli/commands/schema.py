"""`prefillshare schema`."""

from prefillshare.cli.output import put


def schema() -> None:
    """Print the JSON Schema of deployment files, for editors."""
    import json

    from prefillshare.config.json_schema import deployment_schema

    put(json.dumps(deployment_schema(), indent=2))
