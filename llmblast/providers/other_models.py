"""Other models: name another model in a request that is written already, wherever its API has it.

That is the URL, the body, or a template of the endpoint: the seam tells which, so a new provider needs nothing here.
"""

import re
from dataclasses import replace
from urllib.parse import urlsplit

import orjson

from llmblast.models import Prompt, Request
from llmblast.provider_contract import Provider, names_model_in_path, writes_model

_DEPLOYMENT = r"/deployments/[^/{]+"


def with_model(request: Request, model: str, provider: Provider) -> Request:
    """Return a request that names the model. `provider` is one of the request's kind."""
    content, path, body = request.content, request.path, request.body
    if isinstance(content, Prompt):
        content = Prompt(
            content.text, content.system, content.parts, content.params, model, content.schema, content.caches_system
        )
    if writes_model(provider):
        if isinstance(content, Prompt):
            path, body = provider.render(content)
    elif names_model_in_path(provider):
        (template,) = provider.dialects.values()
        path = provider.path_for(template, model)
    elif not request.needs_model:
        body = orjson.dumps({name: value for name, value in orjson.loads(body).items() if name != "model"})
    return replace(request, path=path, body=body, content=content, model=model, needs_model=True)


def reason_against_model(model: str, provider: Provider, url: str) -> str | None:
    """Return why requests to an endpoint cannot name the model; None where they can."""
    if re.search(_DEPLOYMENT, urlsplit(provider.base_url(url)).path):
        return "its URL names the deployment, which is the model"
    return provider.unsupported_in(Prompt("", None, (), {}, model))
