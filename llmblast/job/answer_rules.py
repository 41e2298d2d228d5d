"""Answer rules: make the checks, repairs and the canary of a run from its settings."""

from collections.abc import Sequence

from llmblast.checking_answers import open_checks
from llmblast.checking_answers.schema import read_schema
from llmblast.errors import UsageError
from llmblast.job.answer_review import AnswerRules
from llmblast.job.canary import Canary
from llmblast.job.repairs import Escalation, Repairs
from llmblast.provider_contract import Provider
from llmblast.providers import providers_of
from llmblast.providers.other_models import reason_against_model
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
    providers = providers_of(settings.endpoints, settings.model)
    share = settings.stop_if_bad
    return AnswerRules(
        checks=checks,
        repairs=Repairs(settings.repair, providers, _escalation_of(settings, providers)),
        canary=None if share is None else Canary(parse_stop_if_bad(share), share),
    )


def _escalation_of(settings: Settings, providers: Sequence[Provider]) -> Escalation | None:
    name, endpoints = settings.escalate, settings.endpoints
    if name is None:
        return None
    index = next((index for index, endpoint in enumerate(endpoints) if endpoint.name == name), None)
    if index is None:
        return _to_model(name, settings, providers)
    if len(endpoints) == 1:
        raise UsageError(f"--escalate {name}: is the only endpoint: name another one with --url for the other lines")
    return Escalation(closed_to=(1 << len(endpoints)) - 1 - (1 << index))


def _to_model(name: str, settings: Settings, providers: Sequence[Provider]) -> Escalation:
    """Return the way to a model, past endpoints whose requests cannot name it. Raises UsageError where none can."""
    pairs = zip(settings.endpoints, providers, strict=True)
    reasons = [reason_against_model(name, provider, endpoint.url) for endpoint, provider in pairs]
    if reasons and all(reason is not None for reason in reasons):
        raise UsageError(
            f"--escalate {name}: names no endpoint, and no endpoint can be asked for a model of that name: "
            f"{settings.endpoints[0].name}: {reasons[0]}: add an endpoint with --url ...,name={name}"
        )
    return Escalation(sum(1 << index for index, reason in enumerate(reasons) if reason is not None), name)
