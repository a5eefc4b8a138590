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


def responses_whole():
    first = client.responses.create(model=models[0], input=TEXT, instructions="be brief", metadata={"a": "b"})
    same(first.status, "completed")
    assert TEXT in first.output_text, first.output_text
    same(first.metadata, {"a": "b"})
    assert first.usage.total_tokens >= first.usage.output_tokens
    again = client.responses.retrieve(first.id)
    same(again.output_text, first.output_text)
    second = client.responses.create(
        model=models[0], input=[{"role": "user", "content": "and then"}], previous_response_id=first.id
    )
    same(second.previous_response_id, first.id)
    assert "and then" in second.output_text
    client.responses.delete(first.id)
    for call in (client.responses.retrieve, client.responses.cancel):
        try:
            call(first.id)
        except openai.NotFoundError:
            continue
        raise AssertionError("a deleted response was found")


def responses_streamed():
    kinds, text, last = [], "", -1
    with client.responses.create(model=models[0], input=TEXT, stream=True) as stream:
        for event in stream:
            kinds.append(event.type)
            same(event.sequence_number, last + 1)
            last = event.sequence_number
            if event.type == "response.output_text.delta":
                text += event.delta
    same(kinds[:2], ["response.created", "response.in_progress"])
    same(kinds[-1], "response.completed")
    assert TEXT in text
    with client.responses.stream(model=models[0], input=TEXT) as stream:
        stream.until_done()
        assert TEXT in stream.get_final_response().output_text


def responses_stopped():
    stream = client.responses.create(model="openclaw/slow", input=TEXT, stream=True)
    for event in stream:
        if event.type == "response.output_text.delta":
            stopped = client.responses.cancel(event_id)
            same(stopped.status, "cancelled")
            break
        if event.type == "response.created":
            event_id = event.response.id
    kinds = [event.type for event in stream]
    same(kinds[-1], "response.failed")


def responses_refused():
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    for params in [{"tools": [tool]}, {"previous_response_id": "resp_" + "0" * 32}, {"background": True}]:
        try:
            client.responses.create(model=models[0], input=TEXT, **params)
        except openai.BadRequestError as error:
            assert error.body and error.body.get("message"), error.body
            continue
        raise AssertionError(f"{params} was taken")


def embeddings():
    answer = client.embeddings.create(model="openclaw/slow", input=["a", "bcd"])
    same([row.embedding for row in answer.data], [[1.0, 0.5], [3.0, 0.5]])
    same(answer.usage.total_tokens, 4)
    named = client.embeddings.create(model="double-embedding", input="abc", encoding_format="float")
    same(named.data[0].embedding, [3.0, 0.5])
    for model, kind in [("openclaw", openai.BadRequestError), ("other", openai.NotFoundError)]:
        try:
            client.embeddings.create(model=model, input="a")
        except kind:
            continue
        raise AssertionError(f"{model} made embeddings")


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
check("responses.create, whole, asked for again, continued, deleted", responses_whole)
check("responses.create, streamed", responses_streamed)
check("responses.cancel of one that goes on", responses_stopped)
check("responses that cannot be made", responses_refused)
check("embeddings.create", embeddings)
check("a wrong key is a 401 that the SDK knows", wrong_key)
check("an unknown model and an empty list are errors that the SDK knows", bad_requests)
finish()
