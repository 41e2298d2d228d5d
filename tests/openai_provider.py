"""What takes a provider, with the OpenAI API's: most tests are about endpoints that speak it."""

from llmblast import sending
from llmblast.providers import OpenAI
from llmblast.records import Answer, Reply, Request
from llmblast.sending import Verdict

OPENAI = OpenAI()


def judge(request: Request, reply: Reply, wall_now_s: float) -> Answer | Verdict:
    return sending.judge(request, reply, wall_now_s, OPENAI)
