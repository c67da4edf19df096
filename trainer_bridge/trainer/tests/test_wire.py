"""The golden request that the Go client's tests write: both sides read the same JSON."""

from pathlib import Path

import msgspec

from empo2_trainer import protocol

GOLDEN = Path(__file__).parents[1] / "testdata" / "wire_golden.json"


def test_a_request_of_the_go_client_is_understood() -> None:
    request = msgspec.json.decode(GOLDEN.read_bytes(), type=protocol.ForwardBackward)
    assert (request.model_id, request.seq_id) == ("session:train:0", 7)
    loss = request.forward_backward_input
    assert loss.loss_fn == "empo2"
    assert loss.loss_fn_config == {
        "clip_low_threshold": 0.8,
        "clip_high_threshold": 1.3,
        "logprob_floor": -5.0,
    }
    (datum,) = loss.data
    assert [t for c in datum.model_input.chunks for t in c.tokens] == [1, 17, 300]
    arrays = {name: tensor.data for name, tensor in datum.loss_fn_inputs.items()}
    assert arrays == {
        "target_tokens": [17, 300, 2],
        "loss_mask": [0, 1, 1],
        "importance_weights": [0, 1, 0.75],
        "logprobs": [0, -0.25, -1.5],
        "advantages": [0, 0.125, -0.5],
        "kl": [0, 0.0625, 0.0625],
        "entropy": [0, 0.03125, 0.03125],
        "floor_mask": [0, 0, 0],
    }
    assert all(tensor.shape == [3] for tensor in datum.loss_fn_inputs.values())
