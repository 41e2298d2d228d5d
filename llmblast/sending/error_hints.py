"""Error hints: the probable cause of an error by its names, words and numbers, from tables of real providers' errors.

A status or a named wait has priority over hints, and so have other lines' replies from the same endpoint.
`error_verdicts` defines which hint counts when.

Names come from the error references of OpenAI, Anthropic, Google (google.rpc.Code and ErrorInfo), Azure OpenAI, AWS
(botocore's THROTTLED list), Mistral, Groq, Cerebras, DeepSeek, Baidu Qianfan, and:

- MiniMax: https://platform.minimax.io/docs/api-reference/errorcode
- Zhipu: https://docs.bigmodel.cn/cn/api/api-code
- DashScope: https://help.aliyun.com/zh/model-studio/error-code
- LiteLLM: https://docs.litellm.ai/docs/proxy/error_reference, and ProxyErrorTypes in its proxy/_types.py: without a
  database it answers every wrong key with `no_db_connection`
"""

import re
from collections.abc import Mapping
from enum import Flag, auto

from llmblast.models import MAX_MESSAGE_CHARS, ReplyError


class Hint(Flag):
    """Probable causes of an error; several may be true."""

    NONE = 0
    RATE_LIMIT = auto()
    """A name of a rate limit or an overload."""
    RATE_WORDS = auto()
    """Words of a rate limit."""
    BUSY_WORDS = auto()
    """Words of an overload or a full queue."""
    ACCOUNT = auto()
    """The key, the balance or the status of the account: it concerns every line."""
    LINE = auto()
    """Too long, forbidden or broken content: it concerns this line only."""
    TOO_LARGE = auto()
    """The provider's own numbers say that the request is larger than the limit."""
    NO_MODEL = auto()
    """The model is unknown."""
    PASSING = auto()
    """Another attempt may work."""
    STATED = auto()
    """The number of an error in a reply with HTTP 200."""


_STEMS: Mapping[Hint, str] = {
    Hint.RATE_LIMIT: (
        r"ratelimit|throttl|overload|toomanyrequests|toomanytokens|resourceexhausted|capacityexhausted"
        r"|queueexceeded|queuefull|slowdown|limitrequests|limitburstrate|concurrencylimit|servicequotaexceeded"
    ),
    Hint.ACCOUNT: (
        r"insufficientquota|insufficientuserquota|insufficientbalance|insufficientfunds|insufficientcredit"
        r"|billing|budgetexceeded|exceededbudget|creditbalance|outofcredits|paymentrequired|arrearage"
        r"|accountoverdue|spendlimit|spendinglimit|keylimitexceeded|apikeyinvalid|invalidapikey"
        r"|incorrectapikey|apikeyexpired|authenticationerror|unauthenticated|unauthorized|deactivated"
        r"|suspended|unsupportedcountry|unrecognizedclient|invalidclienttoken|expiredtoken|incompletesignature"
        r"|invalidsignature|signaturedoesnotmatch|missingauthenticationtoken"
        r"|tokennotfoundindb|nodbconnection|expiredkey"
    ),
    Hint.LINE: (
        r"contextlength|contextwindow|contextsize|contentfilter|contentpolicy|contentmanagement"
        r"|policyviolation|responsibleai|moderation|datainspection|prohibitedcontent|invalidprompt|unsafe"
        r"|abovemaxlength|requesttoolarge|payloadtoolarge|toolong|invalidimage|invalidbase64|imageparse"
        r"|imagetoolarge"
    ),
    Hint.NO_MODEL: (
        r"modelnotfound|modelnotexist|modeldoesnotexist|modelnotavailable|modeldecommissioned|invalidmodel"
        r"|unknownmodel|deploymentnotfound"
    ),
}
"""Searched in normalised names: providers vary prefixes and suffixes."""

_ZHIPU: Mapping[Hint, tuple[int, ...]] = {
    Hint.RATE_LIMIT: (1302, 1303, 1304, 1305, 1308, 1310, 1312, 1313),
    Hint.ACCOUNT: (1110, 1111, 1112, 1113, 1121, 1309),
    Hint.LINE: (1261, 1301),
    Hint.NO_MODEL: (1211,),
    Hint.PASSING: (1120,),
}
_MINIMAX: Mapping[Hint, tuple[int, ...]] = {
    Hint.RATE_LIMIT: (1002, 1039, 1041, 2045, 2056),
    Hint.ACCOUNT: (1004, 1008, 2049),
    Hint.LINE: (1026, 1027, 1042),
    Hint.PASSING: (1000, 1001, 1013, 1024, 1033),
}
_MINIMAX_PREFIX = "baseresp"
_NUMBERED = {str(number): hint for hint, numbers in _ZHIPU.items() for number in numbers}
_NUMBERED |= {f"{_MINIMAX_PREFIX}{number}": hint for hint, numbers in _MINIMAX.items() for number in numbers}

_LINKS = r"\b(?:https?://|www\.)\S{1,300}"
"""Links such as .../account/billing are no hint at the error."""

_WORDS: Mapping[Hint, str] = {
    Hint.RATE_WORDS: r"rate[ -]?limit|too many (?:concurrent )?requests|throttl",
    Hint.BUSY_WORDS: (
        r"overloaded|server overload|pending requests|requests? (?:are|is) waiting"
        r"|queue (?:is |was )?(?:currently )?full|(?:maximum|max) queue|queue (?:size|limit|length)|full queue"
        r"|at (?:full |maximum )?capacity|(?:no|over|insufficient) capacity|capacity (?:is |was )?exceeded"
        r"|currently loading|loading model|model is (?:still )?loading|no (?:available )?slots?|slot unavailable"
        r"|(?:high|heavy|peak) (?:demand|traffic|load)|resources? (?:has been |is |are )?exhausted"
        r"|\b(?:server|service|system|engine|model|workers?|slots?|we)(?: is| are)?(?: all| currently| too)? busy"
    ),
    Hint.ACCOUNT: (
        r"credit balance|insufficient (?:account )?(?:balance|credit|fund|quota)"
        r"|not enough (?:credit|balance|fund)|(?:out of|no|any|all available) credits"
        r"|exceeded your current quota|check your plan and billing"
        r"|budget (?:has been |was |is )?exceeded|exceeded (?:the |your )?budget"
        r"|spend(?:ing)? limit|specified api usage limits|key limit exceeded"
        r"|payment (?:is )?required|failure to pay|past[ -]due|overdue|unpaid|arrears|please recharge"
        r"|(?:invalid|incorrect|expired|revoked) api[ -]?key"
        r"|api[ -]?key (?:is |was |has )?(?:been )?(?:not valid|not found|invalid|expired|revoked|disabled|missing)"
        r"|\b(?:account|organi[sz]ation|key|subscription|plan)\b[^.]{0,60}"
        r"\b(?:suspended|deactivated|disabled|inactive|terminated|locked|expired)"
        r"|(?:location|country|region)[^.]{0,40} (?:is |are )?not supported"
        r"|余额不足|欠费"
    ),
    Hint.LINE: (
        r"(?:request|prompt|input|image|file|payload|message)s?\b[^.]{0,40}\btoo (?:large|big)"
        r"|(?:prompt|input|message)s?\b[^.]{0,40}\btoo long|too large for model"
        r"|exceeds the rate limit of|required for long context"
        r"|exceeds the maximum (?:allowed |number of )*(?:tokens|context|input|prompt|length|request size)"
        r"|maximum context|context (?:length|window|size)|reduce the length"
        r"|flagged|moderation|content[ _](?:policy|filter|management)|usage polic(?:y|ies)"
        r"|safety (?:system|filter|polic|reason)"
        r"|(?:inappropriate|sensitive|harmful|prohibited|unsafe) (?:content|words)"
        r"|invalid image|(?:process|decode|download|load)(?: the| input)* image|unsupported image"
    ),
    Hint.NO_MODEL: (
        r"\binvalid model(?: name\b|: | ['\"`])|\bmodel not exist|\bunknown model\b|\bnot a valid model\b"
        r"|\bmodel\b[^\n]{0,120}\b(?:does not|doesn't) exist"
    ),
}
"""Searched in the lower-case message without its links. Each alternative is bounded. `re` compiles the patterns at the
first error: at the start that would take 6 ms.
"""

_NUMBER = r"~?(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,9})?"
_LIMIT_AND_REQUESTED = rf"\blimit(?: is| of)?:? ?{_NUMBER}\b.{{0,80}}?\brequested:? ?{_NUMBER}"
_REQUESTED_AND_LIMIT = rf"\brequested:? ?{_NUMBER}\b.{{0,80}}?\blimit(?: is| of)?:? ?{_NUMBER}"
_LARGER_THAN = (
    rf"\b(?:request|prompt|input)\b[^.\d]{{0,60}}{_NUMBER}\)? ?(?:tokens?)?\)?,? ?(?:which )?(?:is |are )?"
    rf"(?:(?:>|exceed(?:s|ing)?|(?:larger|greater|more) than)[^.\d]{{0,60}}|too (?:large|long)\b[^\d]{{0,90}}){_NUMBER}"
)


def hints_in(error: ReplyError) -> Hint:
    """Return all hints in the error. Never raises; takes a bounded time."""
    hints = Hint.NONE
    for name in error.names:
        hints |= _hints_in_name(name)
    text = re.sub(_LINKS, "", error.message[:MAX_MESSAGE_CHARS].lower())
    for hint, words in _WORDS.items():
        if re.search(words, text):
            hints |= hint
    if _is_too_large(text):
        hints |= Hint.TOO_LARGE
    return hints


def _hints_in_name(name: str) -> Hint:
    hints = _NUMBERED.get(name, Hint.NONE)
    for hint, stems in _STEMS.items():
        if re.search(stems, name):
            hints |= hint
    return hints | Hint.STATED if name.startswith(_MINIMAX_PREFIX) else hints


def _is_too_large(text: str) -> bool:
    """Return whether the message names a requested amount and a limit below that, apart from its present use."""
    found = re.search(_LIMIT_AND_REQUESTED, text)
    if found is not None:
        return _amount(found[2]) > _amount(found[1])
    found = re.search(_REQUESTED_AND_LIMIT, text) or re.search(_LARGER_THAN, text)
    return found is not None and _amount(found[1]) > _amount(found[2])


def _amount(digits: str) -> int:
    return int(digits.replace(",", ""))
