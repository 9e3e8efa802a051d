"""The names of the figures that `medsa-bench` measures, and what each is, in words."""

AGAINST = "against"
WHAT = {
    "step_2d": "a training step on two images of 256 pixels",
    "step_3d": "the same on one volume of four slices, with depth adapters",
    "step_1024": "the same on one image of 1024 pixels",
    "memory_1024": "largest memory of that step beyond the model",
    "prefix": "a step with adapters in the last three blocks, the others kept",
    "ceiling": "share of this machine's products of matrices that a step reaches",
    "message_bytes": "one site's answer by its coding, beside the whole model",
    "sites_memory": "memory of a simulation with one and with 200 sites",
    "round_overhead": "a round of 100 sites beyond their training",
    "server_memory": "the coordinator's memory for many answers",
    "inference": "one mask on an image of 512 pixels after one click",
    AGAINST: "a training step beside the code of --against",
}
"""All of them; the last one is measured when it is asked for."""
