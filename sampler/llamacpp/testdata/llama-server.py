"""The command line of a llama-server binary for the real server of xllamacpp.

It accepts the flags that the backend uses, with their names in llama.cpp, and refuses others as the
binary does.
"""

import argparse
import os
import signal
import threading

import xllamacpp as xlc

flags = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--host", "--model", "--alias", "--lora", "--flash-attn", "--cache-type-k", "--cache-type-v"):
    flags.add_argument(name)
NUMBERS = ("--port", "--parallel", "--ctx-size", "--threads", "--threads-batch", "--threads-http", "--cache-ram")
for name in (*NUMBERS, "--n-gpu-layers"):
    flags.add_argument(name, type=int)
for name in ("--offline", "--no-warmup"):
    flags.add_argument(name, action="store_true")
want = flags.parse_args()

p = xlc.CommonParams()
p.hostnames, p.port, p.offline, p.ui = [want.host], want.port, want.offline, False
p.model.path, p.model_alias = want.model, {want.alias}
p.api_keys = [os.environ["LLAMA_API_KEY"]]
p.lora_adapters = [xlc.CommonAdapterLoraInfo(path, 1.0) for path in (want.lora or "").split(",") if path]
p.n_parallel, p.n_ctx = want.parallel, want.ctx_size
p.cpuparams.n_threads, p.cpuparams_batch.n_threads = want.threads, want.threads_batch
p.n_threads_http, p.cache_ram_mib, p.warmup, p.fit_params = want.threads_http, want.cache_ram, False, False
if want.flash_attn == "off":
    p.flash_attn_type = xlc.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if want.cache_type_k == want.cache_type_v == "f32":
    p.cache_type_k = p.cache_type_v = xlc.ggml_type.GGML_TYPE_F32
server = xlc.Server(p)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
threading.Event().wait()
