"""Answer rules: make the checks, repairs and the canary of a run from its settings."""

from llmblast.checking_answers import open_checks
from llmblast.checking_answers.schema import read_schema
from llmblast.errors import UsageError
from llmblast.job.answer_review import AnswerRules
from llmblast.job.canary import Canary
from llmblast.job.repairs import Escalation, Repairs
from llmblast.providers import providers_of
from llmblast.setting_loading import parse_stop_if_bad
from llmblast.settings import Settings


def check_answer_settings(settings: Settings) -> Settings:
    """Return the settings with the schema in the place of its file. Raises UsageError for what cannot be used."""
    settings = read_schema(settings)
    make_answer_rules(settings)
    return settings


def make_answer_rules(settings: Settings) -> AnswerRules | None:
    """Return what is asked of the answers; None where nothing is. Raises UsageError."""
    checks = open_checks(settings)
    if checks is None and settings.escalate is not None:
        raise UsageError(
            f"--escalate {settings.escalate}: has no effect without a check of the answers: add --expect, --schema, "
            "--expect-regex or --expect-command"
        )
    if checks is None and settings.stop_if_bad is None:
        return None
    kinds = [provider.kind for provider in providers_of(settings.endpoints)]
    share = settings.stop_if_bad
    return AnswerRules(
        checks=checks,
        repairs=Repairs(settings.repair, kinds, _escalation_of(settings)),
        canary=None if share is None else Canary(parse_stop_if_bad(share), share),
    )


def _escalation_of(settings: Settings) -> Escalation | None:
    name, endpoints = settings.escalate, settings.endpoints
    if name is None:
        return None
    index = next((index for index, endpoint in enumerate(endpoints) if endpoint.name == name), None)
    if index is None:
        return Escalation(model=name)
    if len(endpoints) == 1:
        raise UsageError(f"--escalate {name}: is the only endpoint: name another one with --url for the other lines")
    return Escalation(closed_to=(1 << len(endpoints)) - 1 - (1 << index))
