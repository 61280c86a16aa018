"""A sentence by a vision model, through the HTTP API of an Ollama server.

The server is the operator's own, named by OLLAMA_URL, so the address rule for submitters' URLs does not
apply to it.
"""

from __future__ import annotations

import base64
import io
import re

import httpx
from PIL import Image

from app.tasks.handlers import DoNotRetry

PICTURE_SIDE_PIXELS = 1024
LENGTH_LIMIT = 300
PROMPT = (
    "Write one plain sentence of at most 25 words that tells a person who cannot see this picture what it"
    " shows. Start with the subject itself. Answer with that sentence and nothing else."
)
_SENTENCE = re.compile(r".+?[.!?](?=\s+[A-Z\"'(]|\s*$)", re.DOTALL)


class VisionFailed(Exception):
    """The vision server did not give a sentence; it may at a later attempt."""


def describe(picture: Image.Image, *, url: str, model: str, timeout_seconds: float) -> str:
    """One sentence of at most 300 characters about the picture.

    Raises `DoNotRetry` when the server has no such model, `VisionFailed` for every other trouble.
    """
    body = {"model": model, "prompt": PROMPT, "images": [_jpeg(picture)], "stream": False}
    try:
        with httpx.Client(timeout=timeout_seconds, trust_env=False) as client:
            response = client.post(f"{url.rstrip('/')}/api/generate", json=body)
    except httpx.TimeoutException:
        raise VisionFailed(f"The vision server gave no answer within {timeout_seconds:g} seconds.") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise VisionFailed("The vision server (setting OLLAMA_URL) cannot be reached.") from None
    return _answer(response, model)


def one_sentence(text: str) -> str:
    """The first sentence of a model's answer, free of quotes and line breaks, at most 300 characters."""
    line = re.sub(r"\s+", " ", text).strip().strip("\"'“”").strip()
    found = _SENTENCE.match(line)
    sentence = found.group() if found else line
    if len(sentence) <= LENGTH_LIMIT:
        return sentence
    return sentence[: LENGTH_LIMIT - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"


def _answer(response: httpx.Response, model: str) -> str:
    answer = _object(response)
    if response.status_code == 404 and "model" in str(answer.get("error", "")):
        raise DoNotRetry(
            f"The vision server has no model {model!r} (setting OLLAMA_MODEL);"
            f" `ollama pull {model}` on that server gets it."
        )
    if response.status_code != 200:
        raise VisionFailed(f"The vision server answered {response.status_code}.")
    text = answer.get("response")
    sentence = one_sentence(text) if isinstance(text, str) else ""
    if not sentence:
        raise VisionFailed("The vision server's answer holds no text.")
    return sentence


def _object(response: httpx.Response) -> dict[str, object]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _jpeg(picture: Image.Image) -> str:
    """Base64 of a JPEG; transparent parts become white."""
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
