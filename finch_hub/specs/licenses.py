"""Licenses of bases and data: an identifier of the Hugging Face Hub, or another name."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pydantic

from finch_hub import errors

MAX_LICENSE = 96
"""Characters of a license's name."""
MAX_LINK = 500
"""Characters of the address of a license's text."""

# Of https://huggingface.co/docs/hub/repositories-licenses, without those that name no license (`other`, `unknown`).
IDENTIFIERS = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
    "grok2-community", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl",
    "odc-by", "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl",
    "zlib",
})  # fmt: skip
_NONE = frozenset({"other", "unknown"})
_UNNAMED = re.compile(r"[^a-z0-9.]+")


def check_license(text: str) -> str:
    """Return the name of a license that a user gave: an identifier in its usual spelling, another name as it is.

    Raises:
        InvalidInput: the text is empty, too long or not visible, or names no license.
    """
    name = text.strip()
    if not name or not name.isprintable() or len(name) > MAX_LICENSE:
        what = f"{errors.shorten(text)!r} is not one line of at most {MAX_LICENSE} visible characters"
        raise errors.InvalidInput(what, where="license", fix="give an identifier such as apache-2.0, or a name")
    if name.lower() in _NONE:
        what, fix = f"{name!r} does not name a license", "give its name, or leave the license out"
        raise errors.InvalidInput(what, where="license", fix=fix)
    return name.lower() if name.lower() in IDENTIFIERS else name


def _check_name(text: str) -> str:
    try:
        return check_license(text)
    except errors.InvalidInput as error:
        raise ValueError(error.problems[0].what) from None


LicenseName = Annotated[str, pydantic.AfterValidator(_check_name)]
"""Field for a license."""


def choose_license(text: object, name: object = None) -> str | None:
    """Return the license that a file of others declares, None if it names none.

    Args:
        text: value of the field `license`.
        name: value of the field `license_name`, which counts if the license is another one than those with an
            identifier.
    """
    for value in (text, name):
        if isinstance(value, str) and value.strip().lower() not in _NONE:
            try:
                return check_license(value)
            except errors.InvalidInput:
                continue
    return None


def make_metadata(license_name: str, link: str | None = None) -> dict[str, Any]:
    """Return a license as the metadata of a model card has it."""
    if license_name in IDENTIFIERS:
        return {"license": license_name}
    # On the Hub, names of other licenses have lower-case letters, digits, dots and hyphens.
    named = {"license": "other", "license_name": _UNNAMED.sub("-", license_name.lower()).strip("-") or "other"}
    return named if link is None else {**named, "license_link": link}
