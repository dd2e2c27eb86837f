"""British spellings, which no text here uses."""

from __future__ import annotations

import re

# British stem -> American spelling. "cancelled" is a stored name and not in the list.
STEMS = {
    r"analys(?:e|ed|ing)\b": "analyze",
    r"artefact": "artifact",
    r"behaviour": "behavior",
    r"catalogue": "catalog",
    r"centre": "center",
    r"colour": "color",
    r"defence": "defense",
    r"(?:de)?serialis": "serialize",
    r"favour": "favor",
    r"(?:final|initial|minim|maxim|normal|optim|organ|orthogonal|quant|random|real|recogn|regular|sanit|special"
    r"|summar|synchron|token|util|vector|visual)is(?:e|ing|ation)": "-ize",
    r"fulfil(?!l)": "fulfill",
    r"grey": "gray",
    r"honour": "honor",
    r"labell": "labeled",
    r"learnt": "learned",
    r"licence": "license",
    r"modell": "modeled",
    r"neighbour": "neighbor",
    r"programme(?!r|d)": "program",
    r"spelt": "spelled",
    r"travell": "traveled",
    r"whilst": "while",
}
NAMES = {"LICENCE", "labelLimit"}  # of files of some models, and of a property of Vega
BRITISH = re.compile(rf"(?<![a-z])(?:{'|'.join(STEMS)})[a-z]*", re.IGNORECASE)


def british(text: str) -> list[str]:
    """Return the British words of a text, each as it stands in it."""
    return [word for word in BRITISH.findall(text) if word not in NAMES]
