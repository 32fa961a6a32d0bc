"""The rows of one Python SDK in the matrix of sdk_matrix.py, which starts this in the SDK's own environment and says what a step is.

    sdk_matrix_one.py NAME          with {"url", "token", "models"} in ASKED

Prints one object a line: {"sdk", "manner", "step", "error"}. Each SDK is used as its own documentation shows it.
"""

import asyncio
import itertools
import json
import os
import sys
from importlib.metadata import version

from pydantic import BaseModel

from rig import expect

STEPS = ["whole", "stream", "tools", "streamed_tools", "structured"]
SAID = "word1 word2 word3 word4 word5 word6 word7 word8"
ASKED = "Say something."
WEATHER = "What is the weather in Paris?"
WANTED = {"tools": "The tool said sunny", "streamed_tools": "The tool said sunny", "structured": "Paris"}


class Place(BaseModel):
    """Where something is."""

    city: str


def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny" if city == "Paris" else "unknown"


class Sdk:
    """One SDK: a client for a caller, and the four things it does. `package` is what its version is told of."""

    def __init__(self, url, token, model):
        self.url, self.token, self.model = url, token, model


class LangChain(Sdk):
    """langchain-openai's ChatOpenAI."""

    package = "langchain-openai"

    def client(self):
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(base_url=self.url, api_key=self.token, model=self.model, max_retries=0)

    def whole(self):
        return self.client().invoke(ASKED).content

    def stream(self):
        return [chunk.content for chunk in self.client().stream(ASKED)]

    def tools(self, ask=lambda model, messages: model.invoke(messages)):
        from langchain_core.messages import HumanMessage
        from langchain_core.tools import tool

        offered = tool(weather)
        model = self.client().bind_tools([offered])
        messages = [HumanMessage(WEATHER)]
        messages.append(ask(model, messages))
        messages += [offered.invoke(call) for call in messages[-1].tool_calls]
        return ask(model, messages).content

    def streamed_tools(self):
        def ask(model, messages):
            first, *rest = model.stream(messages)
            return sum(rest, start=first)

        return self.tools(ask)

    def structured(self):
        return self.client().with_structured_output(Place).invoke(ASKED).city


class PydanticAi(Sdk):
    """pydantic-ai's Agent on an OpenAIChatModel."""

    package = "pydantic-ai-slim"
    name = "pydantic-ai"

    def agent(self, **more):
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return Agent(OpenAIChatModel(self.model, provider=OpenAIProvider(base_url=self.url, api_key=self.token)), **more)

    def whole(self):
        return self.agent().run_sync(ASKED).output

    def stream(self):
        async def read():
            async with self.agent().run_stream(ASKED) as result:
                return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

        return asyncio.run(read())

    def tools(self):
        return self.agent(tools=[weather]).run_sync(WEATHER).output

    def streamed_tools(self):
        async def read():
            async with self.agent(tools=[weather]).run_stream(WEATHER) as result:
                return await result.get_output()

        return asyncio.run(read())

    def structured(self):
        return self.agent(output_type=Place).run_sync(ASKED).output.city


class OpenAiAgents(Sdk):
    """openai-agents on its default API, /v1/responses."""

    package = "openai-agents"

    def agent(self, **more):
        from agents import Agent, set_default_openai_client, set_tracing_disabled

        set_tracing_disabled(True)
        set_default_openai_client(self.openai(), use_for_tracing=False)
        return Agent(name="one", instructions="Be brief.", model=self.model, **more)

    def openai(self):
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=self.url, api_key=self.token, max_retries=0)

    def run(self, agent, text=ASKED):
        from agents import Runner

        return asyncio.run(Runner.run(agent, text)).final_output

    def whole(self):
        return self.run(self.agent())

    def stream(self):
        from agents import Runner

        async def read():
            events = Runner.run_streamed(self.agent(), ASKED).stream_events()
            raw = [event.data async for event in events if event.type == "raw_response_event"]
            return [data.delta for data in raw if data.type == "response.output_text.delta"]

        return asyncio.run(read())

    def tools(self):
        from agents import function_tool

        return self.run(self.agent(tools=[function_tool(weather)]), WEATHER)

    def streamed_tools(self):
        from agents import Runner, function_tool

        async def read():
            result = Runner.run_streamed(self.agent(tools=[function_tool(weather)]), WEATHER)
            async for _ in result.stream_events():
                pass
            return result.final_output

        return asyncio.run(read())

    def structured(self):
        return self.run(self.agent(output_type=Place)).city


class OpenAiAgentsOnChat(OpenAiAgents):
    """openai-agents on chat completions."""

    name = "openai-agents, OpenAIChatCompletionsModel"

    def agent(self, **more):
        from agents import Agent, OpenAIChatCompletionsModel, set_tracing_disabled

        set_tracing_disabled(True)
        model = OpenAIChatCompletionsModel(model=self.model, openai_client=self.openai())
        return Agent(name="one", instructions="Be brief.", model=model, **more)


class Instructor(Sdk):
    """instructor over OpenAI's SDK: its trade is the shape; the rest is the SDK's own."""

    package = "instructor"

    def openai(self):
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key=self.token, max_retries=0)

    def client(self):
        import instructor

        return instructor.from_openai(self.openai())

    def create(self, **more):
        messages = [{"role": "user", "content": ASKED}]
        return self.client().chat.completions.create(model=self.model, messages=messages, **more)

    def whole(self):
        return self.create(response_model=None).choices[0].message.content

    def stream(self):
        messages = [{"role": "user", "content": ASKED}]
        places = self.client().chat.completions.create_partial(model=self.model, messages=messages, response_model=Place)
        expect("the last of the partial answers", list(places)[-1].city, "Paris")
        chunks = self.create(response_model=None, stream=True)
        return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]

    def tools(self):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        offered = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
        messages = [{"role": "user", "content": WEATHER}]
        ask = self.openai().chat.completions.create
        message = ask(model=self.model, messages=messages, tools=offered).choices[0].message
        for call in message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
        return ask(model=self.model, messages=messages, tools=offered).choices[0].message.content

    streamed_tools = None

    def structured(self):
        return self.create(response_model=Place).city


class OpenAiHelpers(Instructor):
    """OpenAI's own helpers `.parse()` and `.stream()`, whose messages carry what they made of the answer."""

    package = "openai"
    name = "openai, .parse() and .stream()"

    def whole(self):
        messages = [{"role": "user", "content": ASKED}]
        return self.openai().chat.completions.create(model=self.model, messages=messages).choices[0].message.content

    def stream(self):
        messages = [{"role": "user", "content": ASKED}]
        with self.openai().chat.completions.stream(model=self.model, messages=messages) as events:
            return [event.delta for event in events if event.type == "content.delta"]

    def tools(self, streamed=False):
        from openai import pydantic_function_tool

        client = self.openai().chat.completions
        offered = [pydantic_function_tool(Place, name="weather")]
        messages = [{"role": "user", "content": WEATHER}]

        def ask():
            if not streamed:
                return client.parse(model=self.model, messages=messages, tools=offered).choices[0].message
            with client.stream(model=self.model, messages=messages, tools=offered) as events:
                return events.get_final_completion().choices[0].message

        message = ask()
        for call in message.tool_calls:
            result = weather(call.function.parsed_arguments.city)
            messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
        return ask().content

    def streamed_tools(self):
        return self.tools(streamed=True)

    def structured(self):
        messages = [{"role": "user", "content": ASKED}]
        client = self.openai()
        answer = client.chat.completions.parse(model=self.model, messages=messages, response_format=Place)
        place = answer.choices[0].message.parsed
        messages += [answer.choices[0].message, {"role": "user", "content": "And again?"}]
        client.chat.completions.parse(model=self.model, messages=messages, response_format=Place)
        return place.city


class OpenAiResponses(OpenAiHelpers):
    """The helpers of OpenAI's SDK on /v1/responses; what the model said goes back as the items that it is."""

    name = "openai, responses.parse() and .stream()"

    def whole(self):
        return self.openai().responses.create(model=self.model, input=ASKED).output_text

    def stream(self):
        with self.openai().responses.stream(model=self.model, input=ASKED) as events:
            return [event.delta for event in events if event.type == "response.output_text.delta"]

    def tools(self, streamed=False):
        from openai.lib._tools import pydantic_function_tool

        client = self.openai().responses
        function = pydantic_function_tool(Place, name="weather")["function"]
        offered = [{"type": "function", **function}]
        items = [{"role": "user", "content": WEATHER}]

        def ask():
            if not streamed:
                return client.parse(model=self.model, input=items, tools=offered)
            with client.stream(model=self.model, input=items, tools=offered) as events:
                return events.get_final_response()

        answer = ask()
        items += answer.output
        for call in (item for item in answer.output if item.type == "function_call"):
            result = weather(**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
        return ask().output_text

    def structured(self):
        items = [{"role": "user", "content": ASKED}]
        client = self.openai().responses
        answer = client.parse(model=self.model, input=items, text_format=Place)
        items += [*answer.output, {"role": "user", "content": "And again?"}]
        client.parse(model=self.model, input=items, text_format=Place)
        return answer.output_parsed.city


class LlamaIndex(Sdk):
    """LlamaIndex's OpenAILike."""

    package = "llama-index-llms-openai-like"

    def client(self):
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(
            api_base=self.url, api_key=self.token, model=self.model, max_retries=0, is_chat_model=True,
            is_function_calling_model=True, context_window=32000,
        )

    def message(self, text=ASKED):
        from llama_index.core.llms import ChatMessage

        return ChatMessage(role="user", content=text)

    def whole(self):
        return self.client().chat([self.message()]).message.content

    def stream(self):
        return [piece.delta or "" for piece in self.client().stream_chat([self.message()])]

    def tools(self, streamed=False):
        from llama_index.core.llms import ChatMessage
        from llama_index.core.tools import FunctionTool

        client, offered = self.client(), FunctionTool.from_defaults(weather)
        history = [self.message(WEATHER)]

        def ask():
            if not streamed:
                return client.chat_with_tools([offered], chat_history=history)
            return list(client.stream_chat_with_tools([offered], chat_history=history))[-1]

        answer = ask()
        history.append(answer.message)
        for call in client.get_tool_calls_from_response(answer):
            more = {"tool_call_id": call.tool_id, "name": call.tool_name}
            history.append(ChatMessage(role="tool", content=weather(**call.tool_kwargs), additional_kwargs=more))
        return ask().message.content

    def streamed_tools(self):
        return self.tools(streamed=True)

    def structured(self):
        return self.client().as_structured_llm(Place).chat([self.message()]).raw.city


SDKS = {
    "openai": [OpenAiHelpers, OpenAiResponses],
    "langchain-openai": [LangChain],
    "pydantic-ai": [PydanticAi],
    "openai-agents": [OpenAiAgents, OpenAiAgentsOnChat],
    "instructor": [Instructor],
    "llama-index": [LlamaIndex],
}


def run_step(sdk, step):
    """One cell: raises where the SDK does, or where something else came out."""
    got = getattr(sdk, step)()
    if step == "stream":
        expect("pieces", len([piece for piece in got if piece]) > 2, True)
        got = "".join(got)
    expect(step, got, WANTED.get(step, SAID))


def main():
    """Every step of every row against every manner."""
    asked = json.loads(os.environ["ASKED"])
    for kind, (manner, model) in itertools.product(SDKS[sys.argv[1]], asked["models"].items()):
        label = f"{getattr(kind, 'name', kind.package)} {version(kind.package)}"
        sdk = kind(asked["url"], asked["token"], model)
        for step in (step for step in STEPS if getattr(sdk, step)):
            error = None
            try:
                run_step(sdk, step)
            except Exception as problem:  # noqa: BLE001 - any failure is this cell's
                error = f"{type(problem).__name__}: {problem}"[:600]
            print(json.dumps({"sdk": label, "manner": manner, "step": step, "error": error}), flush=True)


if __name__ == "__main__":
    main()
