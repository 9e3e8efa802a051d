"""Where the noise of differential privacy comes from: the operating system, never a run's seed."""

import os

import torch

# The state of a generator on the processor is in words of 64 bits: three of book-keeping, then the
# 624 words of the Mersenne Twister, each of which holds 32 bits.
FIRST, WORDS = 3, 624


def secret_generator(device: torch.device) -> torch.Generator:
    """A new generator on `device`, seeded by the operating system (`os.urandom`).

    Noise that can be drawn again can be subtracted again. Seeds of a run are written down and sent
    to every site, so neither they nor `torch.manual_seed` may decide this noise, and what is drawn
    here is never the same twice, not even in a resumed run.

    On the processor all 19,968 bits of the state are drawn: `manual_seed` keeps the lower 32 bits
    of a seed there, and four thousand million seeds can be tried one by one against a released
    state. Elsewhere the seed has the 64 bits that such generators take.

    The generators of PyTorch are not cryptographic, and sums of floating-point numbers betray
    something of what was added (Mironov 2012, "On significance of the least significant bits for
    differential privacy"). Opacus' `secure_mode` is meant against both, but it needs the package
    torchcsprng, which does not exist for this version of PyTorch. Privacy that is computed with
    this noise is therefore not safe against attacks on floating-point arithmetic.
    """
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(os.urandom(8), "little"))
    if generator.device.type == "cpu":
        state = generator.get_state()
        drawn = torch.frombuffer(bytearray(os.urandom(4 * WORDS)), dtype=torch.uint32)
        state.view(torch.int64)[FIRST : FIRST + WORDS] = drawn.to(torch.int64)
        generator.set_state(state)
    return generator
