"""Writes the fixtures of package token with Hugging Face's tokenizers.

    pip install tokenizers tiktoken && python oracle.py [--many N --out DIR]

Run in this folder. For each tokenizer NAME it writes NAME.tokenizer.json (a small
vocabulary trained on the texts below, under the pre-tokenizer of a model family; the
demo model's own file is used where it lies) and NAME.jsonl.gz, one case per line:
text, ends of the pieces in bytes, ids with added tokens matched everywhere, ids with
none matched. tiktoken.* is the same with OpenAI's tiktoken. NAME.decode.jsonl.gz has id sequences and their text. With --many, N
random texts per tokenizer go to DIR instead, for a longer comparison.
"""
import argparse, base64, gzip, json, random, unicodedata
import tiktoken
from tokenizers import Tokenizer, Regex, models, pre_tokenizers, decoders, trainers, AddedToken

V3_LAST = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
           r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""").replace(r"\r", "\r").replace(r"\n", "\n")
HAN_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
GLM = (r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
       r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
KIMI = (r"""[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
KIMI_SPECIAL = {"[BOS]": 700, "<|im_end|>": 702}
V2_LETTERS = """41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A
38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77
1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE
1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126
2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D
A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"""
V2_CLASS = "".join("-".join(chr(int(h, 16)) for h in r.split("-")) for r in V2_LETTERS.split())


def isolated(*patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
FAMILIES = {
    "v3": isolated(r"\p{N}{1,3}", HAN_KANA, V3_LAST) + [BYTES],
    "glm": isolated(GLM) + [BYTES],
    "v2": isolated("[\r\n]", r"\s?[" + V2_CLASS + "]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$",
                   "[一-龥\u0800-一가-\ud7ff]+") + [pre_tokenizers.Digits(individual_digits=True), BYTES],
    "kimi": isolated(KIMI) + [BYTES],  # a pattern without a scanner of its own
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
    "odd": isolated(r"^\w+|\bx\B|\d++(?=%)|(?>a|ab)c|[b-d&&[^c]]{2,}|\x{41}(?:bc)?\u00e9|\P{L}$|(?i)tra|k.") + [BYTES],  # much of the syntax that compilePattern knows
}

SENTENCES = """The code for the amber falcon is 4821. What is 47 + 38? It's 85, isn't it? We've seen that they'll go.
def main(argc, argv):\n    return foo_bar.Baz(x)  # comment\n\n\nif (x == 1) { y += 2; }\r\n\tTab
价格是12345元。 我们今天去北京看电影，好不好？ 日本語テスト・カタカナー これはペンです。 한국어 텍스트 안녕하세요 여러분.
Привет, как дела? Das Mädchen läuft über die Straße. Où est la bibliothèque? ¿Dónde está el baño? Ελληνικά γράμματα.
naïve café ½ Ⅳ ²³ １２３ مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก 👩‍👩‍👧 🇩🇪 ✓ → ∑ €""".split("\n")

# The characters that stand for the bytes 0 to 255.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
REST = [b for b in range(256) if b not in PRINTABLE]
BYTE_SPELLING = [chr(b) if b in PRINTABLE else chr(256 + REST.index(b)) for b in range(256)]

AWKWARD = """Hello! 毕老师！1 + 1 = 2 ĠÑĤÐ²ÑĬÑĢ|Hello world|hello  world   x|12345678|价格是12345元。|日本語テスト・カタカナー|don't I'll
foo_bar.Baz(x)|x=1;\\n\\n\\n  y = 2\\n| \\n \\n a|end   |!!!\\r\\n\\r\\n|\\t\\tTab|a\\u00a0b|naïve café|½ Ⅳ ²³|\\u3000全角|２０２４年|한국어 텍스트
<think>\\n</think>|<｜DSML｜function_calls>\\n|The quick brown fox jumps over 13 lazy dogs.|DON'T I'LL 'S 'ſ 'ſa 'Re'vE'M'lL'D''s'
e\\u0301\\u0301 \\u0301 \\u0301a a\\u0301b .\\u0301|\\u200b\\u200ba\\u200b|\\u0000\\u0001a\\u007f b\\u0085c\\u0085|\\u001ca\\u001f b\\u001c
\\ufeffBOM|a\\u2028b\\u2029c|\\r\\r\\n\\n \\r \\n\\t\\r|   \\t  .x|  .|  !a|!a|!é|!!a b|-foo -1 --x 'naïve|a\\u3000b\\u3000\\u3000c|\\u3000\\u3000。a
 Helloé|é|Éa ß Straße STRASSE ﬆra ǅ ǆ|😀😀 😀a|👩‍👩‍👧|𝟘𝟙𝟚𝟛|٣٤٥٦|Ⅷ①②③④|x\\u00b2\\u00b3\\u00b9\\u2070|~`@#$%^&*()_+{}|[]:;"'<>?,./
user@example.com https://a.b/c?d=e&f=g#h|C:\\\\dir\\\\file.txt|a_b__c___d|1,234.5e-6|３１４|一二三abc四五六|アイウ123えおabc|\\u9fa5\\u9fa6\\u309f\\u30a0
<｜User｜>hi<｜Assistant｜>|<｜begin▁of▁sentence｜>|<｜end▁of▁sentence｜><｜end▁of▁sentence｜>|a <think> b </think> c|<<think>>|<think|< think>
abc ac abbd bbdd bcb Abcé Aé Abc x axb xa x 10% 20 kk k|tra TRA straTRA\\nend9\\n9|\\n|\\r| |  |a|\\u0301|。|"""


def awkward():
    for part in AWKWARD.replace("\n", "|").split("|"):
        yield part.encode("latin-1", "backslashreplace").decode("unicode_escape")


POOLS = [
    " ", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u0085", "\u2028", "a", "b", "xyz", "Hello", "THE", "é", "Ж", "ſ", "'", "'s", "'LL",
    "1", "12", "٣", "²", "Ⅳ", "½", ".", ",", "!", "-", "_", "(", "<", ">", "。", "！", "・", "一", "龥", "あ", "ア", "ー", "ゟ", "한", "\u0301", "\u200d",
    "\u200b", "\x00", "\x1c", "😀", "€", "+", "∑", "\\", "[", "]", "^", "`", "~", "$", "ǅ", "ʰ", "ª", "\u0e33", "ا", "नि", "<think>", "</think>",
    "<｜User｜>", "｜", "▁", "%", "k", "A", "c", "d", "x", "\ufffd", "\ue000", "\U0010ffff",
]
ASSIGNED = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def random_text(rng):
    n = rng.choice((1, 2, 3, 5, 8, 13, 21))
    kind = rng.random()
    if kind < 0.7:
        return "".join(rng.choice(POOLS) for _ in range(n))
    if kind < 0.9:
        return "".join(chr(rng.choice(ASSIGNED)) if rng.random() < 0.6 else rng.choice(POOLS) for _ in range(n))
    return "".join(rng.choice("ab \n1.'\u3000é一") * rng.randint(1, 40) for _ in range(n))


def trained(name, stages):
    tok = Tokenizer(models.BPE(ignore_merges=name == "glm"))
    tok.pre_tokenizer = pre_tokenizers.Sequence(stages)
    tok.decoder = decoders.ByteLevel()
    corpus = SENTENCES + [t for t in awkward()] * 2
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=640, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens(["<｜User｜>", "<｜begin▁of▁sentence｜>"])
    tok.add_tokens([
        AddedToken("<think>", normalized=True), AddedToken("</think>", normalized=False), AddedToken("<think>\n", normalized=True),
        AddedToken("ello", single_word=True, normalized=False), AddedToken("xyz", lstrip=True, normalized=True),
        AddedToken("THE", rstrip=True, normalized=False), AddedToken("<｜Assistant｜>", lstrip=True, rstrip=True, special=True)])
    if name == "glm":  # pieces of the vocabulary that no merges lead to
        data = json.loads(tok.to_str())
        data["model"]["merges"] = data["model"]["merges"][::3]
        vocab = data["model"]["vocab"]
        whole = set(vocab)
        data["model"]["merges"] = [m for m in data["model"]["merges"] if all(p in whole for p in (*m, "".join(m)))]
        tok = Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
    return tok


def cases(tok, texts):
    data = json.loads(tok.to_str())
    data["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(data))
    for text in texts:
        ends = [len(text[:end].encode()) for _, (_, end) in tok.pre_tokenizer.pre_tokenize_str(text)]
        # A character cut into several tokens still ends one piece only.
        yield {"text": text, "ends": ends, "ids": tok.encode(text, add_special_tokens=False).ids,
               "plain": plain.encode(text, add_special_tokens=False).ids}


def ranked(tok):
    """The vocabulary of a trained tokenizer as tiktoken has it: bytes, then merges, by rank."""
    unspell = {c: b for b, c in enumerate(BYTE_SPELLING)}
    data = json.loads(tok.to_str())["model"]
    tokens = [bytes([b]) for b in range(256)] + [bytes(unspell[c] for c in "".join(m)) for m in data["merges"]]
    return {t: rank for rank, t in enumerate(dict.fromkeys(tokens))}


def tiktoken_cases(enc, texts):
    for text in texts:
        yield {"text": text, "ids": enc.encode(text, allowed_special="all"), "plain": enc.encode(text, disallowed_special=())}


def write(path, rows):
    with gzip.GzipFile(path, "wb", mtime=0) as f:
        for row in rows:
            f.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--many", type=int, default=0)
    args.add_argument("--out", default=".")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    names = ["demo", *FAMILIES]
    for name in names:
        rng = random.Random(f"{name} {args.seed}")
        if name == "demo":
            tok = Tokenizer.from_file("../../demo/hf/tokenizer.json")
        elif args.many:
            tok = Tokenizer.from_file(name + ".tokenizer.json")
        else:
            tok = trained(name, FAMILIES[name])
            tok.save(name + ".tokenizer.json", pretty=False)
        texts = [] if args.many else list(awkward()) + SENTENCES
        texts += [random_text(rng) for _ in range(args.many or 300)]
        write(f"{args.out}/{name}.jsonl.gz", cases(tok, texts))
        size, rows = tok.get_vocab_size(), []
        for _ in range(args.many or 100):
            ids = [rng.randrange(size) for _ in range(rng.randint(0, 12))]
            if rng.random() < 0.5:  # bytes only: many broken characters
                ids = [rng.choice([tok.token_to_id(c) for c in BYTE_SPELLING]) for _ in ids]
            rows.append({"ids": ids, "text": tok.decode(ids, skip_special_tokens=False)})
        write(f"{args.out}/{name}.decode.jsonl.gz", rows)
        if name == "kimi":
            ranks = ranked(tok)
            if not args.many:
                with open("tiktoken.model", "wb") as f:
                    for t, rank in ranks.items():
                        f.write(base64.b64encode(t) + b" %d\n" % rank)
                with open("tiktoken_config.json", "w") as f:
                    json.dump({"bos_token": "[BOS]", "added_tokens_decoder": {
                        str(i): {"content": c, "special": True} for c, i in KIMI_SPECIAL.items()}}, f)
            enc = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=KIMI_SPECIAL)
            texts += ["[BOS]hi<|im_end|>", "a [BOS] b[BOS", "XMLHttpRequest's IDs'LL 漢字かな"]
            write(f"{args.out}/tiktoken.jsonl.gz", tiktoken_cases(enc, texts))


main()
