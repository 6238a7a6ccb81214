"""Weights of timm's models on the Hugging Face hub: in its cache, or fetched."""

from __future__ import annotations

import os
from pathlib import Path

from instsearch_cli.errors import InstsearchError
from instsearch_plugins.extractors.timm_models import FILE, timm

PAGE = "https://huggingface.co"


def cached(repository: str) -> Path | None:
    """The weights file of a repository in the hub's cache; None if it is not there, or the hub's package is not."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, FILE)
    return Path(found) if isinstance(found, str) else None


def fetched(model: str) -> Path:
    """The weights file of one of timm's models: in the hub's cache, or fetched, which INSTSEARCH_OFFLINE=1 forbids.

    Raises InstsearchError that says what to fetch from where, under which licence, and how to have it found.
    """
    config = timm().get_pretrained_cfg(model)
    repository = config.hf_hub_id if config else ""
    if not repository:
        raise InstsearchError(
            f"no weights for {model}, and timm publishes none on the hub.\nGive its file with --weights FILE, or name "
            f"it {model}.pth and point INSTSEARCH_WEIGHTS there."
        )
    if placed := cached(repository):
        return placed
    if os.environ.get("INSTSEARCH_OFFLINE", "0") not in ("", "0"):
        reason = "INSTSEARCH_OFFLINE is set"
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(repository, FILE))
        except GatedRepoError:
            reason = f"accept their licence at {PAGE}/{repository} and run `hf auth login`"
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = f"the download failed: {(str(error).splitlines() or [''])[0]}"
    licence = config.license or "unknown"
    raise InstsearchError(
        f"no weights for {model} ({reason}).\nDownload {FILE} from {PAGE}/{repository} (licence {licence}), and give "
        f"it with --weights FILE, or put it as {model}.safetensors into a folder that INSTSEARCH_WEIGHTS names."
    )
