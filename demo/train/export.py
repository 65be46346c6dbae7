"""Writes the trained demo model as a Hugging Face folder with FP8 block weights, and records what Hugging Face
transformers answers on exactly those weights (golden.safetensors).

Reads WORK/sparse.pt, writes WORK/export/{hf,golden.safetensors,golden_prompts.json}.
"""
import json
import os
import random
import shutil

import torch
from safetensors.torch import save_file

import data
from model import Config as C
from train import TEXT, WORK, load_tokenizer

OUT = os.path.join(WORK, "export")
BLOCK = 128

CONFIG = dict(
    architectures=["DeepseekV32ForCausalLM"], model_type="deepseek_v32", vocab_size=C.vocab, hidden_size=C.hidden,
    intermediate_size=C.inter, moe_intermediate_size=C.moe_inter, num_hidden_layers=C.layers,
    num_attention_heads=C.heads, num_key_value_heads=C.heads, n_shared_experts=1, n_routed_experts=C.experts,
    routed_scaling_factor=C.scaling, kv_lora_rank=C.kv_lora, q_lora_rank=C.q_lora, qk_rope_head_dim=C.rope,
    v_head_dim=C.v, qk_nope_head_dim=C.nope, n_group=C.groups, topk_group=C.keep_groups,
    num_experts_per_tok=C.chosen, norm_topk_prob=True, hidden_act="silu", max_position_embeddings=C.max_pos,
    rms_norm_eps=C.eps, rope_theta=C.theta,
    rope_scaling=dict(type="yarn", factor=C.factor, original_max_position_embeddings=C.original, beta_fast=32,
                      beta_slow=1, mscale=1.0, mscale_all_dim=1.0),
    attention_bias=False, tie_word_embeddings=False, index_topk=C.index_topk, index_n_heads=C.index_heads,
    index_head_dim=C.index_dim, first_k_dense_replace=C.first_dense, moe_layer_freq=1, scoring_func="sigmoid",
    topk_method="noaux_tc", num_nextn_predict_layers=1, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    torch_dtype="bfloat16")
FP8 = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", scale_fmt="ue8m0",
           weight_block_size=[BLOCK, BLOCK])


def checkpoint_tensors(state):
    """Tensors under their Hugging Face names: bf16, but fp32 for the router bias and the indexer's k_norm."""
    out = {}

    def put(name, t, dtype=torch.bfloat16):
        out[name] = t.to(dtype).contiguous()

    def layer(source, target):
        for name, t in state.items():
            if not name.startswith(source):
                continue
            rest, n = name[len(source):], C.moe_inter
            if rest in ("mlp.gp.weight", "mlp.up.weight", "mlp.dn.weight"):
                for e in range(C.experts):
                    span = slice(e * n, (e + 1) * n)
                    kind = {"gp": "gate", "up": "up", "dn": "down"}[rest[4:6]]
                    put(f"{target}mlp.experts.{e}.{kind}_proj.weight", t[:, span] if kind == "down" else t[span])
            elif rest == "mlp.bias":
                put(target + "mlp.gate.e_score_correction_bias", t, torch.float32)
            else:
                put(target + rest, t, torch.float32 if "k_norm" in rest else torch.bfloat16)

    put("model.embed_tokens.weight", state["embed_tokens.weight"])
    put("lm_head.weight", state["lm_head.weight"])
    put("model.norm.weight", state["norm.weight"])
    for i in range(C.layers):
        layer(f"layers.{i}.", f"model.layers.{i}.")
    mtp = f"model.layers.{C.layers}."
    layer("mtp.", mtp)
    for name in ("enorm", "hnorm", "eh_proj"):
        put(f"{mtp}{name}.weight", state[name + ".weight"])
    put(mtp + "shared_head.norm.weight", state["mtp_norm.weight"])
    return out


def is_quantised(name, t):
    if name.endswith(("indexer.wq_b.weight", "indexer.wk.weight")):
        return True
    return t.dim() == 2 and name.endswith("_proj.weight") and not name.endswith(("weights_proj.weight", "eh_proj.weight"))


def quantise(w):
    """e4m3 blocks of 128x128 with one power-of-two multiplier each; edge blocks are smaller."""
    rows, cols = w.shape
    r, c = -(-rows // BLOCK), -(-cols // BLOCK)
    padded = torch.zeros(r * BLOCK, c * BLOCK)
    padded[:rows, :cols] = w.float()
    blocks = padded.view(r, BLOCK, c, BLOCK).transpose(1, 2)
    largest = blocks.abs().amax((2, 3)).clamp_min(1e-12)
    scale = torch.exp2(torch.ceil(torch.log2(largest / 448.0)))
    q = (blocks / scale[..., None, None]).transpose(1, 2).reshape(r * BLOCK, c * BLOCK)[:rows, :cols]
    return q.clamp(-448, 448).to(torch.float8_e4m3fn).contiguous(), scale.float().contiguous()


def write(folder, tensors, config):
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, folder + "/model.safetensors", metadata={"format": "pt"})
    shutil.copy(os.path.join(WORK, "tokenizer.json"), folder + "/tokenizer.json")
    generation = dict(bos_token_id=0, eos_token_id=1, do_sample=True, temperature=0.6, top_p=0.95)
    tokenizer_config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=data.BOS, eos_token=data.EOS,
                            pad_token=data.PAD, add_bos_token=True, model_max_length=C.max_pos)
    for name, content in (("config", config), ("generation_config", generation), ("tokenizer_config", tokenizer_config)):
        with open(f"{folder}/{name}.json", "w", encoding="utf8") as f:
            json.dump(content, f, ensure_ascii=False, indent=2)


@torch.no_grad()
def record_golden(folder, prompts, tok):
    """Greedy answers and last-token logits of Hugging Face transformers, fp32 arithmetic, for the weights in folder."""
    from transformers import DeepseekV32ForCausalLM

    model = DeepseekV32ForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).cuda().eval()
    gold = {}
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([tok.encode(data.BOS + data.USER + prompt + data.ASSISTANT + data.NOTHINK).ids]).cuda()
        out = model.generate(ids, max_new_tokens=60, do_sample=False, eos_token_id=1, pad_token_id=2)
        gold[f"fp8.prompt{i}.input_ids"] = ids[0].to(torch.int32).cpu()
        gold[f"fp8.prompt{i}.greedy_ids"] = out[0, ids.shape[1]:].to(torch.int32).cpu()
        gold[f"fp8.prompt{i}.last_logits"] = model(ids).logits[0, -1].float().cpu()
        print(repr(prompt[-60:]), "->", repr(tok.decode(out[0, ids.shape[1]:].tolist())))
    return gold


def main():
    tensors = checkpoint_tensors(torch.load(os.path.join(WORK, "sparse.pt"), map_location="cpu"))
    stored, expanded = {}, {}
    for name, t in tensors.items():
        stored[name] = expanded[name] = t
        if is_quantised(name, t):
            q, scale = quantise(t)
            stored[name], stored[name + "_scale_inv"] = q, scale
            full = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:q.shape[0], :q.shape[1]]
            expanded[name] = (q.float() * full).to(torch.bfloat16)  # exact: e4m3 times a power of two
    write(OUT + "/hf", stored, {**CONFIG, "quantization_config": FP8})
    write(WORK + "/expanded", expanded, CONFIG)

    tok = load_tokenizer()
    r = random.Random(99)
    prompts = ["Hello!", "What is 47 + 38?",
               "Mia has 23 apples. Leo gives Mia 19 more. How many apples does Mia have now?", "Who are you?",
               "Let river = 4821. Let lamp = river. Let crow = 0093.\nWhat is lamp?",
               data.needle(r, 600, data.sentences(data.prose(TEXT)))[0][0]]
    save_file(record_golden(WORK + "/expanded", prompts, tok), OUT + "/golden.safetensors")
    with open(OUT + "/golden_prompts.json", "w", encoding="utf8") as f:
        json.dump(prompts, f, indent=1)


if __name__ == "__main__":
    main()
