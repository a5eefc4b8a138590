"""The official OpenAI SDK for Python against `/v1`."""

import openai

from checks import check, env, finish, same

BASE = env("URL") + "/v1"
TEXT = "hello SDK äöü 😀"
MESSAGES = [{"role": "user", "content": TEXT}]
client = openai.OpenAI(base_url=BASE, api_key=env("TOKEN"), max_retries=0, timeout=30)
models = []


def list_models():
    models.extend(row.id for row in client.models.list())
    assert models, "no model"


def whole():
    answer = client.chat.completions.create(model=models[0], messages=MESSAGES)
    same(answer.object, "chat.completion")
    same(answer.choices[0].finish_reason, "stop")
    assert TEXT in answer.choices[0].message.content
    assert answer.usage.total_tokens >= answer.usage.completion_tokens


def streamed():
    text, chunks, reason, usage = "", 0, None, None
    stream = client.chat.completions.create(
        model=models[0], messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        chunks += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert chunks > 1, "it came in one piece"
    same(reason, "stop")
    assert TEXT in text
    assert usage and usage.total_tokens > 0


def content_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    answer = client.chat.completions.create(model=models[0], messages=parts)
    assert TEXT in answer.choices[0].message.content


# Covers: A1, A17.
def wrong_key():
    wrong = openai.OpenAI(base_url=BASE, api_key="f" * 64, max_retries=0, timeout=30)
    try:
        wrong.chat.completions.create(model=models[0], messages=MESSAGES)
    except openai.AuthenticationError as error:
        same(error.status_code, 401)
        return
    raise AssertionError("let in")


def bad_requests():
    for params, kind in [
        ({"model": "no-such-model", "messages": MESSAGES}, openai.APIStatusError),
        ({"model": models[0], "messages": []}, openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**params)
        except kind as error:
            assert error.status_code in (400, 404), error.status_code
            assert error.body and error.body.get("message"), error.body
            continue
        raise AssertionError(f"{params} was taken")


check("models.list has a model", list_models)
check("chat.completions.create, whole", whole)
check("chat.completions.create, streamed, with usage", streamed)
check("content as parts", content_parts)
check("a wrong key is a 401 that the SDK knows", wrong_key)
check("an unknown model and an empty list are errors that the SDK knows", bad_requests)
finish()
