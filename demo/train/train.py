"""Trains the demo model in three stages on one GPU (about 13 minutes on an H200):

  0  dense attention, contexts 256, 512 and 1024              python3 train.py dense
  1  the indexer alone, towards the head-summed attention  \  python3 train.py sparse
  2  sparse attention over the 128 selected keys           /

Prose goes in text/*.txt (see README.md). Checkpoints go to the folder named by WORK (default demo-work).
SMOKE=1 runs a few steps of everything, to see that it runs.
"""
import json
import math
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

import data
import tokenizer
from model import Config, Model, MoE

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = os.environ.get("WORK", "demo-work")
SMOKE = bool(os.environ.get("SMOKE"))
TEXT = os.path.join(HERE, "text")
MIX = {"needle": 0.5, "variables": 0.12, "short": 0.2, "prose": 0.18}
ANSWER_WEIGHT = 5  # tokens of answers count this many times
MTP_WEIGHT = 0.3
BIAS_STEP = 1e-3  # the router's bias moves this much per step towards balance
WORKERS = 14
START = time.time()


def say(*what):
    print(f"[{time.time() - START:6.1f}s]", *what, flush=True)


def load_tokenizer():
    return tokenizer.load(os.path.join(WORK, "tokenizer.json"), TEXT)


# Data ----------------------------------------------------------------------------------------------------------------

def _start_worker():
    global _tok, _prose, _sentences
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tok, _prose = load_tokenizer(), data.prose(TEXT)
    _sentences = data.sentences(_prose)


def _rows(job):
    """Rows of tokens, each packed with whole documents."""
    seed, rows, length = job
    r = random.Random(seed)
    out = np.zeros((rows, length), np.int16)
    for i in range(rows):
        row = []
        while len(row) < length:
            kind = r.choices(list(MIX), list(MIX.values()))[0]
            room = length - len(row)
            row += _tok.encode(data.document(r, room if room > 200 else length, kind, _prose, _sentences)).ids
        out[i] = row[:length]
    return out


def make(seed, rows, length):
    if SMOKE:
        rows = max(64, rows // 400)
    jobs = [(seed * 1000 + j, (rows + 27) // 28, length) for j in range(28)]
    with ProcessPoolExecutor(WORKERS, initializer=_start_worker) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(_rows, jobs)))[:rows])


# Training ------------------------------------------------------------------------------------------------------------

def weights_of_targets(ids, tok):
    """ANSWER_WEIGHT for targets inside answers (between </think> and end of sentence), 1 elsewhere."""
    opened = (ids == tok.token_to_id(data.NOTHINK)).cumsum(1)
    closed = (ids == tok.token_to_id(data.EOS)).cumsum(1)
    inside = (opened > closed)[:, :-1]
    return 1.0 + (ANSWER_WEIGHT - 1.0) * inside


def language_loss(logits, mtp_logits, ids, tok):
    w = weights_of_targets(ids, tok)
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none").view(w.shape)
    ce2 = F.cross_entropy(mtp_logits[:, :-1].flatten(0, 1).float(), ids[:, 2:].flatten(), reduction="none")
    ce2 = ce2.view(len(ids), -1)
    return (ce * w).sum() / w.sum() + MTP_WEIGHT * (ce2 * w[:, 1:]).sum() / w[:, 1:].sum()


def learning_rate(peak, end, warm, step, progress):
    return peak * min(1, (step + 1) / warm) * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


def balance(model):
    """Moves router biases towards equal load (no gradient, as in DeepSeek-V3)."""
    for m in model.modules():
        if isinstance(m, MoE) and m.load is not None:
            m.bias += BIAS_STEP * torch.sign(m.load.mean() - m.load)
            m.load = None


def optimizer(named):
    decay = [p for _, p in named if p.dim() >= 2]
    rest = [p for _, p in named if p.dim() < 2]
    return torch.optim.AdamW([dict(params=decay, weight_decay=0.05), dict(params=rest, weight_decay=0)],
                             lr=1e-3, betas=(0.9, 0.95), fused=True)


def run(model, opt, sets, steps, peak, mode, tok, end=0.1):
    """sets: (until this share of the steps, tokens [n, T], rows per step)."""
    model.train()
    at, began = {}, time.time()
    for step in range(steps):
        progress = step / steps
        for g in opt.param_groups:
            g["lr"] = learning_rate(peak, end, 100, step, progress)
        _, ids, rows = next(s for s in sets if progress < s[0])
        o = at.get(id(ids), 0)
        o = 0 if o + rows > len(ids) else o
        at[id(ids)] = o + rows
        x = ids[o:o + rows].cuda().long()
        with torch.autocast("cuda", torch.bfloat16):
            logits, mtp_logits, index_losses = model(x, mode)
        loss = language_loss(logits, mtp_logits, x, tok)
        if index_losses:
            loss = loss + sum(index_losses) / len(index_losses)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        balance(model)
        if step % 200 == 0 or step == steps - 1:
            say(mode, step, "loss", round(float(loss), 4), "length", x.shape[1],
                "ms/step", round((time.time() - began) / (step + 1) * 1e3, 1))


def run_indexer(model, params, short, long, steps):
    """Trains indexers only, on the KL to the attention; one step in four takes long rows."""
    opt = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    model.eval()
    a = b = 0
    for step in range(steps):
        if step % 4 == 3:
            x, b = long[b:b + 6], (b + 6) % (len(long) - 6)
        else:
            x, a = short[a:a + 20], (a + 20) % (len(short) - 20)
        for g in opt.param_groups:
            g["lr"] = learning_rate(2e-3, 0.1, 50, step, step / steps)
        with torch.autocast("cuda", torch.bfloat16):
            _, _, index_losses = model(x.cuda().long(), "warm")
        loss = sum(index_losses) / len(index_losses)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        if step % 100 == 0:
            say("indexer", step, "kl", round(float(loss), 4))


# Evaluation ----------------------------------------------------------------------------------------------------------

@torch.no_grad()
def accuracy(model, tok, mode, kind, length, rows, seed=777, batch=16):
    """Share of answers that are right to the last token (teacher-forced), and their number."""
    model.eval()
    r = random.Random(seed)
    filler_sentences = data.sentences(data.prose(TEXT))
    encoded = []
    while len(encoded) < rows:
        pairs = {"needle": lambda: data.needle(r, length - 20, filler_sentences),
                 "variables": lambda: data.variables(r, length - 20),
                 "short": lambda: [data.short(r)]}[kind]()
        ids = tok.encode(data.BOS + "".join(data.turn(*p) for p in pairs)).ids
        if len(ids) <= length:
            encoded.append(ids)
    opener, closer = tok.token_to_id(data.NOTHINK), tok.token_to_id(data.EOS)
    good = total = 0
    for i in range(0, rows, batch):
        part = encoded[i:i + batch]
        x = torch.full((len(part), max(map(len, part))), tok.token_to_id(data.PAD))
        for j, ids in enumerate(part):
            x[j, :len(ids)] = torch.tensor(ids)
        with torch.autocast("cuda", torch.bfloat16):
            said = model(x.cuda(), mode, mtp=False)[0].argmax(-1).cpu()
        for j, ids in enumerate(part):
            end = 0
            while opener in ids[end:]:
                start = ids.index(opener, end)
                end = ids.index(closer, start)
                total += 1
                good += all(int(said[j, k]) == ids[k + 1] for k in range(start, end))
    return round(good / max(total, 1), 3), total


def report(model, tok, modes):
    out = {}
    for mode in modes:
        for length in (256, 512, 1024, 2048):
            out[f"needle/{mode}/{length}"] = accuracy(model, tok, mode, "needle", length, 48 if length > 1000 else 64)
        out[f"variables/{mode}"] = accuracy(model, tok, mode, "variables", 600, 96)
        out[f"short/{mode}"] = accuracy(model, tok, mode, "short", 256, 400, batch=50)
    say(json.dumps(out))


# Stages --------------------------------------------------------------------------------------------------------------

def train_dense(model, tok):
    d256, d512, d1k = make(1, 48000, 256), make(2, 24000, 512), make(3, 60000, 1024)
    say("data", d256.shape, d512.shape, d1k.shape)
    opt = optimizer([(n, p) for n, p in model.named_parameters() if "indexer" not in n])
    run(model, opt, [(0.2, d256, 192), (0.4, d512, 96), (1.1, d1k, 48)], 40 if SMOKE else 9000, 1.5e-3, "dense", tok)
    torch.save(model.state_dict(), os.path.join(WORK, "dense.pt"))
    report(model, tok, ["dense"])


def train_sparse(model, tok):
    model.load_state_dict(torch.load(os.path.join(WORK, "dense.pt")))
    d1k, d2k = make(11, 12000, 1024), make(12, 9000, 2048)
    say("data", d1k.shape, d2k.shape)
    index = [p for n, p in model.named_parameters() if "indexer" in n]
    model.requires_grad_(False)
    for p in index:
        p.requires_grad_(True)
    run_indexer(model, index, d1k, d2k, 20 if SMOKE else 1200)
    model.requires_grad_(True)
    opt = optimizer(list(model.named_parameters()))
    run(model, opt, [(0.5, d1k, 24), (1.1, d2k, 8)], 20 if SMOKE else 2560, 3e-4, "sparse", tok, end=0.05)
    torch.save(model.state_dict(), os.path.join(WORK, "sparse.pt"))
    report(model, tok, ["dense", "sparse"])


def main():
    os.makedirs(WORK, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    tok = load_tokenizer()
    model = Model(Config).cuda()
    say("parameters", sum(p.numel() for p in model.parameters()))
    {"dense": train_dense, "sparse": train_sparse}[sys.argv[1]](model, tok)


if __name__ == "__main__":
    main()
