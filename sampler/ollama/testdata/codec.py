"""The trainer's codec without its server, for the tests of ollama.

Arguments: the trainer's sources and the model. One JSON object per line in and out: the name of an
endpoint and its body.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

from empo2_trainer.text import Codec, UserError

operations = Codec(sys.argv[2]).operations()
for line in sys.stdin:
    want = json.loads(line)
    try:
        answer = operations[want["op"]](json.dumps(want["body"]).encode())
    except UserError as e:
        answer = {"error": str(e)}
    print(json.dumps(answer), flush=True)
