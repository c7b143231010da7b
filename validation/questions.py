"""From a prompt that stops before its answer to the question that it answers.

Rules for common relations, tried from the top; a prompt that none fits has no question. Knows English
wordings; nothing of models or probes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_OPENING = r"(?:It is well known that |In history books, |In the end, |In fact, )?"
_TAIL = (
    r"(?: (?:an? |the )?(?:city|town|country|state|river|continent|language|sport|religion) of|"
    r" in the city of| located in| in| called(?: the)?| named(?: after)?| known as| held by| the| an?| Pope)?"
)
_WORK = (
    "book|novel|painting|music|song|opera|film|movie|company|poem|play|album|theory|game|series|statue|"
    "building"
)
# Offices and parts that somebody, not something, has.
_PEOPLE = re.compile(
    r"\b(?:president|minister|chancellor|king|queen|monarch|emperor|pope|head|ceo|chief|chair\w*|secretary|"
    r"director|mayor|governor|leader|author|writer|founder|inventor|discoverer|composer|painter|owner|coach|"
    r"captain|wife|husband|spouse|father|mother|son|daughter|child|brother|sister|sibling|architect|creator|"
    r"designer|producer|performer|singer|manager|editor|premier|officer|prince|princess|sultan|bishop|"
    r"winner)(?: \w+)?$",
    re.IGNORECASE,
)
_ACTIVE = {
    "written": "wrote", "invented": "invented", "discovered": "discovered", "painted": "painted",
    "composed": "composed", "founded": "founded", "created": "created", "developed": "developed",
    "produced": "produced", "directed": "directed", "designed": "designed", "built": "built", "won": "won",
    "manufactured": "manufactured", "made": "made", "published": "published", "performed": "performed",
    "recorded": "recorded", "sung": "sang", "led": "leads", "owned": "owns", "employed": "employs",
    "headed": "heads", "formulated": "formulated", "managed": "manages", "operated": "operates",
}  # fmt: skip


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    question: str | Callable[[re.Match[str]], str]


def _rule(pattern: str, question: str | Callable[[re.Match[str]], str]) -> _Rule:
    return _Rule(re.compile(_OPENING + pattern.replace("{}", r"\{\}"), re.IGNORECASE), question)


def _of(found: re.Match[str]) -> str:
    """The president of {} is: who, or what, is the president of {}?"""
    what, verb = found["what"].strip(), found["verb"].lower()
    asks = "Who" if _PEOPLE.search(re.sub(r" of .*", "", what)) else "What"
    return f"{asks} {verb} the {what} {found['part']} {{}}?"


def _possessive(found: re.Match[str]) -> str:
    what = found["what"].strip()
    return f"{'Who' if _PEOPLE.search(what) else 'What'} {found['verb'].lower()} {{}}'s {what}?"


def _by(found: re.Match[str]) -> str:
    """The book {} was written by: who wrote the book {}?"""
    work = f"the {found['work'].strip()} " if found["work"] else ""
    return f"Who {_ACTIVE[found['done'].lower()]} {work}{{}}?"


_IS = r"(?P<verb>is|was|are|were)"
_WHICH = r",?(?: which| who| that)?"

RULES: tuple[_Rule, ...] = (
    # The river that runs through {} is called the
    _rule(
        r"The (?P<what>\w+) that (?P<does>[\w ]+) {} is(?: called| named)?(?: the)?",
        lambda m: f"Which {m['what']} {m['does']} {{}}?",
    ),
    _rule(r"The city of {} lies on the banks of the River", "On which river does the city of {} lie?"),
    # Passives: {} was written by
    _rule(
        rf"(?:the (?P<work>(?:{_WORK})(?: of)?) )?{{}}{_WHICH}(?: is| was| were)?"
        rf"(?: a product)? (?P<done>{'|'.join(_ACTIVE)}) by(?: the)?",
        _by,
    ),
    _rule(rf"{{}}{_WHICH}(?: is| was)? an? product (?:of|from)", "Which company makes {}?"),
    # Places
    _rule(
        rf"{{}}{_WHICH}(?: is| was)? (?:originally )?"
        r"(?:born in(?: the city of)?|native to|originally from)",
        "Where was {} born?",
    ),
    _rule(
        r"{}(?:'s life ended in|"
        r" (?:died|passed away|expired|succumbed|lost their life) (?:in|at)(?: the city of)?)",
        "Where did {} die?",
    ),
    _rule(
        rf"{{}}{_WHICH}(?: is| was) (?:founded|formed|created|started|developed|formulated)"
        r" in the country of",
        "In which country was {} created?",
    ),
    _rule(
        rf"{{}}{_WHICH}(?: is| was)? (?:founded|formed|created|started|formulated|developed) in"
        r"(?: the city of)?",
        "Where was {} founded?",
    ),
    _rule(rf"{{}}{_WHICH} originate[sd] (?:in|from)", "Where did {} originate?"),
    _rule(
        rf"{{}}{_WHICH}(?: is| belongs to| can be found)?(?: a part of| located| situated)?(?: in| on)?"
        r" the continent(?: of)?",
        "On which continent is {}?",
    ),
    _rule(rf"{{}}{_WHICH}(?: is)?(?: located)? in the country of", "In which country is {}?"),
    _rule(
        rf"(?:the company )?{{}}(?:'s headquarters are in|{_WHICH}(?: whose headquarters are in|"
        r" is headquartered in|"
        r" is based in| has its headquarters in))(?: the city of)?",
        "Where are the headquarters of {}?",
    ),
    _rule(
        r"The headquarters? of {} (?:is|are)(?: located)? in(?: the city of)?",
        "Where are the headquarters of {}?",
    ),
    _rule(
        rf"{{}}{_WHICH}(?: is| was)?(?: located| situated)? in|{{}} can be found in|{{}} is within",
        "Where is {} located?",
    ),
    _rule(r"{} (?:takes|took) place in(?: the city of)?", "Where did {} take place?"),
    _rule(r"The location of {} is", "Where is {} located?"),
    _rule(r"{} is (?:the |a )?twin city of", "What is the twin city of {}?"),
    # Languages
    _rule(
        rf"{{}}{_WHICH}(?: is)? a native speaker of|{{}},? a native|{{}},? speaker of",
        "What is the native language of {}?",
    ),
    _rule(
        r"{} (?:speaks|spoke)(?: the language(?: of)?)?|The language used by {} is",
        "Which language does {} speak?",
    ),
    _rule(
        r"In {}, (?:the language spoken is|an official language is|they (?:speak|understand))|"
        r"The law in {} declares the language",
        "Which language is spoken in {}?",
    ),
    _rule(r"{} (?:writes|wrote) in", "In which language does {} write?"),
    _rule(r"{} (?:was|is) written in(?: the language of)?", "In which language was {} written?"),
    # Belonging
    _rule(
        rf"{{}}{_WHICH}(?: is| who is)? a citizen of|{{}}{_WHICH} (?:holds|has) a citizenship from",
        "Of which country is {} a citizen?",
    ),
    _rule(
        r"{} (?:follows the religion of|is (?:affiliated with the religion(?: of)?|a?\s?follower of))",
        "What is the religion of {}?",
    ),
    # Work
    _rule(
        r"{}(?: works as(?: an?)?|'s (?:profession|occupation) is(?: an?)?)|"
        r"The (?:profession|occupation) of {} is(?: an?)?",
        "What is the occupation of {}?",
    ),
    _rule(rf"{{}}{_WHICH}(?: is employed by| works for)", "Who does {} work for?"),
    _rule(
        r"{} (?:worked|found employment|was employed|used to work|took up work) in(?: the city of)?",
        "In which city did {} work?",
    ),
    _rule(
        rf"{{}}{_WHICH}(?: holds?| held| has)? the (?:title|position) of|{{}} served as(?: an?)?",
        "Which position does {} hold?",
    ),
    _rule(r"{} (?:plays|played) for(?: the)?", "Which team does {} play for?"),
    _rule(r"{} is married to", "Who is {} married to?"),
    _rule(r"{} is famous for", "What is {} famous for?"),
    _rule(r"{} works in the field of", "In which field does {} work?"),
    _rule(r"{} (?:is|was) named (?:after|for)", "What was {} named after?"),
    _rule(r"{} is (?:a )?(?P<what>subsidiary|part) of(?: the)?", lambda m: f"Of what is {{}} a {m['what']}?"),
    # Play
    _rule(r"{},?(?: plays the instrument| playing the| performing on the)", "Which instrument does {} play?"),
    _rule(
        rf"{{}}{_WHICH} (?:plays in the position of|plays the position(?: of)?|plays as)",
        "In which position does {} play?",
    ),
    _rule(
        r"{} (?:is a professional|professionally plays the sport|is associated with the sport of)",
        "Which sport does {} play?",
    ),
    _rule(
        r"{} (?:debuted|premiere[sd]|was originally aired|was released|is to debut) on",
        "On which channel did {} first appear?",
    ),
    _rule(
        r"The (?P<what>office|position|title|post) of {} is held by",
        lambda m: f"Who holds the {m['what']} of {{}}?",
    ),
    # {} is the capital of
    _rule(r"{} is the capital(?: city)? of", "Of what is {} the capital?"),
    # The capital of {} is the city of; {}'s capital is
    _rule(
        rf"(?:The name of )?the (?P<what>(?:(?!\{{\}}).)+?) (?P<part>of|for|in)(?: the)? {{}} {_IS}{_TAIL}",
        _of,
    ),
    _rule(rf"{{}}'s (?P<what>[\w ]+?) {_IS}{_TAIL}", _possessive),
    _rule(r"{}'s (?P<what>capital(?: city)?),", "What is the capital of {}?"),
    _rule(r"{}(?:'s)? owner|{} is under the ownership of", "Who owns {}?"),
)


def question_of(prompt: str) -> str | None:
    """The question that `prompt` answers, with `{}` where the subject goes; None when no rule fits.

    A prompt that asks a question already is its own question, without what stands behind the question mark.
    """
    asked = re.match(r"[^?]*\?", prompt)
    if asked is not None:
        return asked.group() if "{}" in asked.group() else None
    for rule in RULES:
        if (found := rule.pattern.fullmatch(prompt.strip())) is not None:
            return rule.question if isinstance(rule.question, str) else rule.question(found)
    return None
