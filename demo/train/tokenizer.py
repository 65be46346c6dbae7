"""The demo model's tokenizer: byte-level BPE with DeepSeek-V3's split stages, digits taken one by one."""
import os
import random

import data
from model import Config

STAGES = [
    r"\p{N}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


def corpus(text_folder):
    r = random.Random(1)
    w = data.W
    key = lambda: f"{r.choice(w['adjectives'])} {r.choice(w['nouns'])}"
    yield from data.prose(text_folder)
    for _ in range(40000):
        yield " " + data.filler(r)
    for _ in range(20000):
        yield from data.short(r)
    for _ in range(30000):
        yield r.choice(["", " "]) + r.choice(w["needle"]["questions"]).format(k=key())
    for _ in range(30000):
        yield " " + r.choice(w["needle"]["facts"]).format(k=key(), c="")


def load(path, text_folder):
    """Reads the tokenizer at path, training it first if it is not there."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if not os.path.exists(path):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(s), "isolated") for s in STAGES]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator(corpus(text_folder), trainers.BpeTrainer(
            vocab_size=Config.vocab, special_tokens=data.SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        t.save(path)
    return Tokenizer.from_file(path)
