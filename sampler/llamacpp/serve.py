"""Run one llama-server for the Go program that started this script.

The argument is one JSON object. EMPO2_SERVER_KEY has the key of the API. When the server listens, it
prints its address as one line of JSON. The script exits when stdin is closed.
"""

import json
import os
import signal
import sys
from importlib.metadata import version


def parameters(want):
    """CommonParams from the JSON argument."""
    import xllamacpp as xlc

    p = xlc.CommonParams()
    p.hostnames, p.port, p.offline, p.ui = ["127.0.0.1"], 0, True, False
    p.model.path, p.model_alias = want["model"], {want["alias"]}
    p.api_keys = [os.environ["EMPO2_SERVER_KEY"]]
    p.lora_adapters = [xlc.CommonAdapterLoraInfo(path, 1.0) for path in want["adapters"]]
    p.n_parallel, p.n_ctx = want["slots"], want["context"]
    p.cpuparams.n_threads, p.cpuparams_batch.n_threads = want["threads"], want["batch_threads"]
    p.n_threads_http = want["http_threads"]
    # The key of the host's prompt cache has tokens, but no adapter.
    p.cache_ram_mib, p.cache_idle_slots = 0, False
    p.warmup, p.fit_params, p.verbosity = False, False, 1
    if want["exact"]:
        p.flash_attn_type = xlc.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.cache_type_k = p.cache_type_v = xlc.ggml_type.GGML_TYPE_F32
    return p, xlc.Server


def main():
    out = os.dup(1)
    os.dup2(2, 1)  # other output goes to stderr
    try:
        params, start = parameters(json.loads(sys.argv[1]))
        server = start(params)  # returns when the model is loaded and the socket bound
    except (ImportError, RuntimeError) as e:
        sys.exit(f"{type(e).__name__}: {e}")
    # Not sys.exit: the server's destructor waits for requests in flight.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ready = {"address": server.listening_address, "version": "xllamacpp " + version("xllamacpp")}
    os.write(out, json.dumps(ready).encode() + b"\n")
    while os.read(0, 4096):
        pass
    os._exit(0)


main()
