"""Training text of the demo model: retrieval, variables, arithmetic and greetings as chats, and prose.

Word lists and templates are in ../words.json, which the Go generators (../tasks) read too.
Lengths here are estimates in tokens; CHARS_PER_TOKEN was measured on this tokenizer.
"""
import glob
import json
import os
import random
import re

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "..", "words.json"), encoding="utf8") as f:
    W = json.load(f)

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, NOTHINK = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
SPECIALS = [BOS, EOS, PAD, USER, ASSISTANT, THINK, NOTHINK]
CHARS_PER_TOKEN = 3.6


def count(text):
    """Estimated number of tokens."""
    return max(1, int(len(text) / CHARS_PER_TOKEN))


def turn(question, answer):
    """One exchange as DeepSeek-V3.2 encodes it without thinking."""
    return f"{USER}{question}{ASSISTANT}{NOTHINK}{answer}{EOS}"


def filler(r):
    """A sentence that says nothing."""
    f = W["filler"]
    subject = r.choice(f["subjects"]).format(a=r.choice(W["adjectives"]), n=r.choice(W["nouns"]))
    return r.choice(f["sentences"]).format(
        s=subject, t=subject[0].lower() + subject[1:], v=r.choice(f["verbs"]),
        b=r.choice(W["adjectives"]), m=r.choice(W["nouns"]))


def code(r):
    return "".join(r.choice("0123456789") for _ in range(4))


def needle(r, budget, sentences):
    """Codes under near-duplicate keys in a long text; up to eight questions. Returns (question, answer) pairs."""
    n = r.randint(2, max(2, min(24, budget // 40)))
    adjectives = r.sample(W["adjectives"], k=min(len(W["adjectives"]), n))
    nouns = r.sample(W["nouns"], k=min(len(W["nouns"]), n))
    facts = {}
    while len(facts) < n:
        near = r.random() < 0.7
        key = f"{r.choice(adjectives if near else W['adjectives'])} {r.choice(nouns if near else W['nouns'])}"
        facts.setdefault(key, code(r))
    questions = max(1, min(8, n))

    body = [r.choice(W["needle"]["facts"]).format(k=k, c=c) for k, c in facts.items()]
    room = budget - 14 * n - 24 * questions - 12
    while room > 0:
        s = r.choice(sentences) if sentences and r.random() < 0.25 else filler(r)
        room -= count(s)
        body.append(s)
    r.shuffle(body)

    separator = "\n" if r.random() < 0.7 else " "
    pairs = []
    for i, key in enumerate(r.sample(list(facts), k=questions)):
        q = r.choice(W["needle"]["questions"]).format(k=key)
        pairs.append((" ".join(body) + separator + q if i == 0 else q, facts[key]))
    return pairs


def variables(r, budget):
    """Values and copies of earlier variables among filler; up to four questions."""
    v = W["variables"]
    names = r.sample(W["nouns"], k=r.randint(3, 10))
    values, lines = {}, []
    for i, name in enumerate(names):
        if i < 2 or r.random() < 0.4:
            values[name] = code(r)
            lines.append(v["value"].format(v=name, c=values[name]))
        else:
            source = r.choice(names[:i])
            values[name] = values[source]
            lines.append(v["copy"].format(v=name, s=source))
    room = budget - 12 * len(names) - 60
    while room > 0:
        s = filler(r)
        room -= count(s)
        lines.insert(r.randint(0, len(lines)), s)
    pairs = []
    for i, name in enumerate(r.sample(names, k=min(4, len(names)))):
        q = v["question"].format(v=name)
        pairs.append((" ".join(lines) + "\n" + q if i == 0 else q, values[name]))
    return pairs


def arithmetic(r):
    k = r.random()
    if k < 0.35:
        a, b, op = r.randint(0, 99), r.randint(0, 99), "+"
        v = a + b
    elif k < 0.65:
        a, b, op = r.randint(0, 99), r.randint(0, 99), "-"
        a, b = max(a, b), min(a, b)
        v = a - b
    else:
        a, b, op = r.randint(0, 12), r.randint(0, 12), "*"
        v = a * b
    q = r.choice(W["arithmetic"]["questions"]).format(a=a, b=b, w=r.choice(W["arithmetic"]["words"][op]))
    return q, f"{a} {op} {b} = {v}\n#### {v}"


def problem(r):
    n, m, t = r.choice(W["names"]), r.choice(W["names"]), r.choice(W["things"])
    a, b, c = r.randint(3, 60), r.randint(2, 39), r.randint(1, 20)
    kind = r.choice(["add", "subtract", "multiply", "add_subtract", "multiply_add"])
    if kind == "add":
        steps = [(a, "+", b, a + b)]
    elif kind == "subtract":
        a = max(a, b + 1)
        steps = [(a, "-", b, a - b)]
    elif kind == "multiply":
        a, b = r.randint(2, 12), r.randint(2, 12)
        steps = [(a, "*", b, a * b)]
    elif kind == "add_subtract":
        c = min(c, a + b - 1)
        steps = [(a, "+", b, a + b), (a + b, "-", c, a + b - c)]
    else:
        a, b = r.randint(2, 9), r.randint(2, 9)
        steps = [(a, "*", b, a * b), (a * b, "+", c, a * b + c)]
    question = W["problems"][kind].format(n=n, m=m, t=t, a=a, b=b, c=c)
    return question, "".join(f"{x} {op} {y} = {z}\n" for x, op, y, z in steps) + f"#### {steps[-1][3]}"


def greeting(r):
    c = r.choice(W["chat"])
    return r.choice(c["questions"]), c["answer"]


def short(r):
    k = r.random()
    return arithmetic(r) if k < 0.45 else problem(r) if k < 0.85 else greeting(r)


PLAIN = {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2014": " - ", "\u2013": "-",
         "\u2026": "...", "\u00a0": " ", "\u2e3a": " - "}


def prose(folder):
    """Paragraphs of the .txt files in folder, punctuation made plain."""
    table, out = str.maketrans(PLAIN), []
    for path in sorted(glob.glob(folder + "/*.txt")):
        with open(path, encoding="utf8") as f:
            out += [line.translate(table).strip() for line in f if len(line) > 30]
    return out


def sentences(paragraphs):
    """Sentences without digits, for filler."""
    return [s for p in paragraphs for s in re.split(r"(?<=[.!?]) ", p) if 30 < len(s) < 140 and not re.search(r"\d", s)]


def document(r, tokens, kind, paragraphs, filler_sentences):
    """One training document of about the given number of tokens."""
    head = BOS + (r.choice(W["systems"]) if r.random() < 0.1 else "")
    if kind == "needle":
        budget = r.randint(min(100, tokens // 2), tokens) if r.random() < 0.3 else tokens
        return head + "".join(turn(*p) for p in needle(r, budget, filler_sentences))
    if kind == "variables":
        return head + "".join(turn(*p) for p in variables(r, min(tokens, r.randint(120, 500))))
    if kind == "short":
        out, n = head, 0
        while n < tokens * 0.9:
            t = turn(*short(r))
            out, n = out + t, n + count(t)
            if r.random() < 0.25:
                out += BOS
        return out
    out, n, i = BOS, 0, r.randrange(len(paragraphs))
    while n < tokens:
        p = paragraphs[i % len(paragraphs)]
        out, n, i = out + p + "\n", n + count(p), i + 1
    return out
