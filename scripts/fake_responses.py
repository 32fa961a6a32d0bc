"""What fake_openai.py answers to `/v1/responses`: the same words as to a chat, in the form of OpenAI's Responses API."""


# What the model thought, as only OpenAI can read it.
SEALED = "c2VhbGVkLXRob3VnaHQ="


def messages_of(body):
    """The request as the messages of a chat, whose answer is then put into the other form."""
    given = body["input"]
    messages = [{"role": "developer", "content": body["instructions"]}] if body.get("instructions") else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given:
        if item.get("type") in ("function_call_output", "custom_tool_call_output"):
            messages.append({"role": "tool", "content": item["output"]})
        elif item.get("type", "message") == "message":
            content = item["content"]
            if isinstance(content, list):
                content = " ".join(part.get("text", "") for part in content)
            messages.append({"role": item["role"], "content": content})
        elif item.get("type") == "function_call":
            messages.append({"role": "assistant", "content": item["arguments"]})
    return messages


def as_chat(body):
    """The body of a chat request that wants the same."""
    chat = {"model": body["model"], "messages": messages_of(body), "max_tokens": body.get("max_output_tokens")}
    if body.get("tools"):
        chat["tools"] = [{"type": "function", "function": {"name": tool["name"]}} for tool in body["tools"]]
    form = (body.get("text") or {}).get("format") or {}
    items = body["input"] if isinstance(body["input"], list) else []
    parts = [part for item in items if isinstance(item.get("content"), list) for part in item["content"]]
    chat["pictures"] = sum(part.get("type") == "input_image" for part in parts)
    # A thought comes back sealed, as it was given; one that is not would be a stranger's.
    chat["thoughts"] = sum(item.get("type") == "reasoning" and item.get("encrypted_content") == SEALED for item in items)
    return {**chat, "response_format": {"type": form.get("type", "text")}}


def brings_open_thoughts(body):
    """Whether thoughts came back that anybody can read, as only a model of one's own shows them."""
    items = body["input"] if isinstance(body["input"], list) else []
    return any(item.get("type") == "reasoning" and bool(item.get("content")) for item in items)


def usage_of(chat_usage):
    """Usage by the names of this API."""
    cached = chat_usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {
        "input_tokens": chat_usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": chat_usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat_usage["total_tokens"],
    }


def items_of(body, answer):
    """The output of an answer; the thought before it is shown, sealed, to whoever asks for it."""
    thoughts = []
    if answer.thoughts:
        text = {"type": "reasoning_text", "text": "".join(answer.thoughts)}
        thoughts = [{"id": "rs_1", "type": "reasoning", "summary": [], "content": [text], "encrypted_content": None, "status": None}]
    elif "reasoning.encrypted_content" in (body.get("include") or []):
        thoughts = [{"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": SEALED}]
    return thoughts + said_by(answer)


def said_by(answer):
    """The message, or the call of a tool."""
    if answer.tool_calls:
        function = answer.tool_calls[0]["function"]
        call = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1"}
        return [{**call, "name": function["name"], "arguments": function["arguments"]}]
    part = {"type": "output_text", "text": answer.text() or "", "annotations": [], "logprobs": []}
    return [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}]


def response_of(body, answer, entry, model, status="completed"):
    """The whole response; with another status one that has not begun."""
    is_done = status == "completed"
    cut = is_done and answer.finish == "length"
    return {
        "id": entry["id"],
        "object": "response",
        "created_at": int(entry["at"]),
        "status": "incomplete" if cut else status,
        "model": model,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "output": items_of(body, answer) if is_done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage_of(answer.usage) if is_done else None,
        "metadata": {},
    }


def events_of(body, answer, entry, model):
    """Every event of a stream, as (type, members); the words come one by one."""
    begun = {"response": response_of(body, answer, entry, model, "in_progress")}
    yield "response.created", begun
    yield "response.in_progress", begun
    for index, item in enumerate(items_of(body, answer)):
        is_call = item["type"] == "function_call"
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "reasoning":
            yield "response.output_item.added", {"output_index": index, "item": {**item, "content": []} if answer.thoughts else item}
            for thought in answer.thoughts:
                yield "response.reasoning_text.delta", {**at, "content_index": 0, "delta": thought}
            if answer.thoughts:
                yield "response.reasoning_text.done", {**at, "content_index": 0, "text": "".join(answer.thoughts)}
            yield "response.output_item.done", {"output_index": index, "item": item}
            continue
        empty = {**item, "status": "in_progress", **({"arguments": ""} if is_call else {"content": []})}
        yield "response.output_item.added", {"output_index": index, "item": empty}
        if is_call:
            for piece in (item["arguments"][:4], item["arguments"][4:]):
                yield "response.function_call_arguments.delta", {**at, "delta": piece}
            done = {**at, "name": item["name"], "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", done
        else:
            part, at = item["content"][0], {**at, "content_index": 0}
            yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
            for n, word in enumerate(answer.words):
                yield "response.output_text.delta", {**at, "delta": word if n == 0 else " " + word, "logprobs": []}
            yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
            yield "response.content_part.done", {**at, "part": part}
        yield "response.output_item.done", {"output_index": index, "item": item}
    last = response_of(body, answer, entry, model)
    yield f"response.{last['status']}", {"response": last}
