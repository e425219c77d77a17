"""What stops an upload, as errors that say what to do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants as hub_constants
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled


try:
    import httpx2 as httpx  # What huggingface_hub 2 talks with.
except ImportError:
    import httpx

OUT_OF_REACH = (OfflineModeIsEnabled, ConnectionError, httpx.TransportError)
# What the client meets an answer with that is not the Hub's: no JSON, JSON without what it looks for, or other types.
STRANGE_ANSWERS = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError)
STRANGE_WORDS = ("improperly formatted", "Malformed response", "Invalid server response", "Invalid etag")
MAX_MESSAGE = 300

AGAIN = "Publish again in a while: large files that arrived whole are not sent twice"
# By status: the kind of error, what has happened, what to do.
ANSWERS = {
    400: (ValueError, "The Hub cannot use what was sent for {repo_id}", "Mend what it names, and publish again"),
    401: (
        PermissionError,
        "The Hub refused to write {repo_id}, as it does not know this token",
        "Run `hf auth login`, or set HF_TOKEN to a token with write access",
    ),
    402: (
        PermissionError,
        "The Hub wants to be paid for {repo_id}",
        "Look at the plan and the storage of its owner on https://huggingface.co/settings/billing, make room, or "
        "publish under another name",
    ),
    403: (
        PermissionError,
        "The Hub refused to write {repo_id}",
        "Check that the token may write, and that the part before the slash is your user name or an organization of "
        "yours",
    ),
    404: (
        PermissionError,
        "The Hub refused to write {repo_id}, as it finds none that this token may see",
        "Check that the part before the slash is your user name or an organization of yours, and that the token may "
        "write there",
    ),
    408: (ConnectionError, "The Hub stopped the upload", AGAIN),
    409: (ConnectionError, "Somebody else is writing {repo_id} at this moment", "Publish again when they are done"),
    412: (ConnectionError, "Somebody else is writing {repo_id} at this moment", "Publish again when they are done"),
    413: (ValueError, "The Hub takes no files as large as these for {repo_id}", "{smaller}, and publish again"),
    422: (ValueError, "The Hub refused the content of {repo_id}", "Mend what it names, and publish again"),
    429: (ConnectionError, "The Hub has had too many requests from this account or address", AGAIN),
}
OTHER_ANSWER = (ValueError, "The Hub refused the upload to {repo_id}", "Look the status up, and publish again")
SERVER_ERROR = (ConnectionError, "The Hub at {endpoint} is in trouble", AGAIN)
SMALLER_MODEL = "Save the model in smaller files, with save_pretrained(max_shard_size=...)"


@contextmanager
def explained_failures(
    repo_id: str, *, kept: str, token: str | None = None, smaller: str = SMALLER_MODEL
) -> Iterator[None]:
    """Turns what the Hub's client raises into errors that say what to do.

    Args:
        kept: Where that which was to be published still is, such as "the files are in runs/mofi".
        smaller: How to make smaller files.

    Raises:
        ConnectionError: If the Hub is out of reach, busy, or something else than the Hub answers.
        PermissionError: If there is no token, or one without the right to write.
        ValueError: If the Hub refuses what was sent.
    """
    if not (token or get_token()):
        raise PermissionError(
            f"There is no Hugging Face token on this machine, so {repo_id} cannot be written. Run `hf auth login` or "
            f"set HF_TOKEN to a token with write access. Nothing is lost: {kept}."
        )
    try:
        yield
    except (*OUT_OF_REACH, *STRANGE_ANSWERS, HfHubHTTPError, RuntimeError, ValueError) as error:
        # The client wraps what stops a large file.
        cause = error.__cause__ if type(error) is RuntimeError else error
        if (explanation := explain(cause, repo_id, smaller=smaller)) is None:
            raise
        kind, text = explanation
        raise kind(f"{text}. Nothing is lost: {kept}.") from error


def explain(error: BaseException | None, repo_id: str, *, smaller: str) -> tuple[type[Exception], str] | None:
    """The kind of error, what has happened and what to do; None if the Hub has no part in it."""
    endpoint = hub_constants.ENDPOINT
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        kind, what, to_do = ANSWERS.get(status, SERVER_ERROR if status >= 500 else OTHER_ANSWER)
        said = " ".join((error.server_message or "").split())[:MAX_MESSAGE]
        what, to_do = (text.format(repo_id=repo_id, endpoint=endpoint, smaller=smaller) for text in (what, to_do))
        return kind, f"{what} (HTTP {status}{': ' + said if said else ''}). {to_do}"
    if isinstance(error, OUT_OF_REACH):
        return ConnectionError, (
            f"The Hub at {endpoint} is out of reach ({error}). Check the network, HF_HUB_OFFLINE and HF_ENDPOINT, "
            "then publish again: large files that arrived whole are not sent twice"
        )
    is_strange = isinstance(error, ValueError) and any(words in str(error) for words in STRANGE_WORDS)
    if is_strange or isinstance(error, STRANGE_ANSWERS):
        return ConnectionError, (
            f"{endpoint} did not answer as the Hub does ({error}). Check HF_ENDPOINT and any proxy in between"
        )
    if isinstance(error, ValueError):  # A name that cannot be one, or a card that the Hub cannot read.
        return ValueError, f"{repo_id} cannot be published as it is: {error}"
    return None
