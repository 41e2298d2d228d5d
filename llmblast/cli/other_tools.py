"""Options of other tools: say what to write instead. No message repeats a key."""

import re
from collections.abc import Sequence

from llmblast.units import UnitError, parse_whole

_KEY = "keys are not allowed on the command line: export OPENAI_API_KEY=..., or name another: --url URL,key_env=NAME"
_IN_FLIGHT = "write --concurrency N for the number of requests in flight"
_PARAMS = "sampling parameters are one option: write --params '{\"%s\": %s}'"
_INSTEAD = {
    _KEY: "api-key key token api-token openai-api-key auth-token bearer-token apikey",
    _IN_FLIGHT: (
        "max-concurrency max-concurrent max-concurrent-requests num-concurrent concurrent concurrent-requests workers "
        "num-workers max-workers threads num-threads parallel parallelism max-parallel max-connections jobs semaphore"
    ),
    "each line is one request: write --concurrency N for the number in flight": "batch-size max-batch-size",
    "write --url URL": "base-url endpoint endpoints api-base api-url host server openai-base-url backend",
    "write --rps N": "qps rate request-rate rate-limit requests-per-second max-rps max-requests-per-second",
    "write --rpm N": "requests-per-minute max-rpm max-requests-per-minute",
    "write --tpm N": "tokens-per-minute max-tpm max-tokens-per-minute",
    "write --save FILE": "out output-file output-path outfile save-path save-filepath results output-filepath",
    "write only the file name: llmblast run FILE": (
        "input-file input-path file infile prompts prompt-file data dataset"
    ),
    "write --errors FILE": "error-file errors-file failed",
    "write --system TEXT": "system-prompt system-message",
    "write --prompt 'TEXT with {FIELD}'": "template prompt-template",
    "write --limit N": "num-prompts max-lines max-requests num-requests head sample",
    "write --timeout DURATION": "request-timeout timeout-s read-timeout",
    "leave it out: the same command goes on where it stopped": "resume continue restart",
    "write --overwrite": "force no-resume fresh",
    "write --verbose": "debug log-level logging-level",
    "write --quiet": "silent",
    "write --progress none": "no-progress disable-tqdm no-tqdm",
    "leave it out: replies are read whole": "stream streaming",
    "write headers = {...} below [[endpoints]] in the --config file": "header headers",
}
ADVICE = {f"--{name}": advice for advice, names in _INSTEAD.items() for name in names.split()}
_RETRIES = ("--retries", "--max-retries", "--num-retries", "--retry")
_SAMPLING = (
    "temperature, max-tokens, max-completion-tokens, top-p, top-k, min-p, seed, stop, n, frequency-penalty, "
    "presence-penalty, repetition-penalty, logprobs, top-logprobs, response-format, reasoning-effort"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def advice_for(option: str, words: Sequence[str]) -> str | None:
    """Return what to write instead of an option of another tool; `words` is the command line."""
    name = option.lower().replace("_", "-")
    if name in _RETRIES:
        return _about_attempts(value_of([option], words))
    if name.removeprefix("--") in _SAMPLING.split(", "):
        value = value_of([option], words)
        return _PARAMS % (name.removeprefix("--").replace("-", "_"), value if _NUMBER.fullmatch(value) else "...")
    return ADVICE.get(name)


def value_of(options: Sequence[str], words: Sequence[str]) -> str:
    """Return the value after the last of `options` on the command line; empty where there is none."""
    found = ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in options:
            found = value if equals else "".join(words[index + 1 : index + 2])
    return found


def _about_attempts(retries: str) -> str:
    try:
        attempts = str(parse_whole(retries) + 1)
    except UnitError:
        attempts = "N"
    return f"write --max-attempts {attempts}: tries in all, the first one included"
