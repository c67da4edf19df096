"""The trainer's tokenizer without the trainer's server, for the tests of ollama.

Arguments: the trainer's sources and the model. One JSON object per line in and out. A question has
the name of an endpoint and its body.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

from empo2_trainer.text import Codec, UserError

operations = Codec(sys.argv[2]).operations()
for line in sys.stdin:
    question = json.loads(line)
    try:
        answer = operations[question["op"]](json.dumps(question["body"]).encode())
    except UserError as e:
        answer = {"error": str(e)}
    print(json.dumps(answer), flush=True)
