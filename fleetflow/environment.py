"""The environment of the stack's processes: all that we set in Prefect, in one place."""

import os
from collections.abc import Mapping
from pathlib import Path


def prefect_environment(home: Path, api_url: str, auth: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ` with our Prefect settings instead of the user's, whose profiles and PREFECT_* have no say in a stack of ours."""
    kept = {name: value for name, value in environ.items() if not name.startswith("PREFECT_")}
    return kept | _settings(home / "prefect", api_url, auth)


def _settings(prefect_home: Path, api_url: str, auth: str | None) -> dict[str, str]:
    settings = {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_PROFILES_PATH": str(prefect_home / "profiles.toml"),
        "PREFECT_API_URL": api_url,
        # Whose business what runs here is not.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_MEMO_STORE_PATH": str(prefect_home / "memo.toml"),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    }
    if auth:
        settings |= {"PREFECT_API_AUTH_STRING": auth, "PREFECT_SERVER_API_AUTH_STRING": auth}
    return settings
