"""Uploads a model folder to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from ftray.errors import StorageError

SCHEME = "hub://"


def repository(target: str) -> str | None:
    """Return OWNER/NAME where `target` is hub://OWNER/NAME, else None. Raises StorageError where
    the Hub has no such names."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not target.startswith(SCHEME):
        return None
    name = target.removeprefix(SCHEME)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise _refused(
            target, f"no name of a repository: {error}", "write hub://OWNER/NAME"
        ) from None
    if name.count("/") != 1:
        raise _refused(target, "no name of a repository", "write hub://OWNER/NAME")
    return name


def push(folder: Path, repo: str, public: bool, message: str) -> str:
    """Upload the files of `folder` to the repository `repo`, which is made where it is missing,
    private unless `public`. Returns the URL of the commit. Raises StorageError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    # The base of the Hub's errors is that of its HTTP client, which connections raise, too.
    unreachable: type[Exception] = HfHubHTTPError.__mro__[1]
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except (unreachable, LocalTokenNotFoundError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = "set HF_TOKEN to a token that may write there, and check the network"
        raise _refused(f"{SCHEME}{repo}", f"cannot be uploaded to: {said}", fix) from None
    return str(commit.commit_url)


def _refused(target: str, problem: str, fix: str) -> StorageError:
    return StorageError.of("--to", target, problem, fix)
