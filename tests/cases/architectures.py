"""Small random models of many architectures: learned positions, windows, caps, scales, ALiBi, experts, state spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip
_OLD = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
_HEADS = {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_WINDOW = {"sliding_window": 8}
_LINEAR = {
    "head_dim": 8, "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip

# Name, configuration class, whether the usual names of sizes hold, and what is set besides.
ARCHITECTURES: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("gpt2", "GPT2Config", False, _OLD),
    ("gpt_neox", "GPTNeoXConfig", True, {}),
    ("gptj", "GPTJConfig", False, {**_OLD, "rotary_dim": 4}),
    ("opt", "OPTConfig", True, {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    ("bloom", "BloomConfig", False, {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}),
    ("falcon", "FalconConfig", True, {}),
    ("falcon_alibi", "FalconConfig", True, {"alibi": True, "new_decoder_architecture": False}),
    ("mpt", "MptConfig", False, {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
    ("llama_bias", "LlamaConfig", True, {"attention_bias": True, "mlp_bias": True}),
    ("llama_yarn", "LlamaConfig", True, {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}}),
    ("llama_linear", "LlamaConfig", True, {"rope_parameters": {
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    ("qwen2", "Qwen2Config", True, {}),
    ("qwen2_window", "Qwen2Config", True, {**_WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    ("qwen3_tied", "Qwen3Config", True, {**_HEADS, "tie_word_embeddings": True}),
    ("gemma", "GemmaConfig", True, _HEADS),
    ("gemma2", "Gemma2Config", True, {**_HEADS, **_WINDOW}),
    ("gemma3", "Gemma3TextConfig", True, {**_HEADS, **_WINDOW, "sliding_window_pattern": 2}),
    ("mistral", "MistralConfig", True, _WINDOW),
    ("ministral3", "Ministral3Config", True, {}),
    ("phi", "PhiConfig", True, {}),
    ("phi3", "Phi3Config", True, {}),
    ("olmo", "OlmoConfig", True, {"clip_qkv": 1.0}),
    ("olmo2", "Olmo2Config", True, {}),
    ("olmo3", "Olmo3Config", True, _WINDOW),
    ("granite", "GraniteConfig", True, {
        "logits_scaling": 8.0, "residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.1}),
    ("smollm3", "SmolLM3Config", True, {"no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    ("cohere", "CohereConfig", True, {}),
    ("cohere2", "Cohere2Config", True, _WINDOW),
    ("stablelm", "StableLmConfig", True, {}),
    ("starcoder2", "Starcoder2Config", True, {}),
    ("glm", "GlmConfig", True, _HEADS),
    ("glm4", "Glm4Config", True, _HEADS),
    ("exaone4", "Exaone4Config", True, {}),
    ("nemotron", "NemotronConfig", True, {}),
    ("helium", "HeliumConfig", True, _HEADS),
    ("arcee", "ArceeConfig", True, {}),
    ("seed_oss", "SeedOssConfig", True, {}),
    ("ernie4_5", "Ernie4_5Config", True, {}),
    ("hunyuan", "HunYuanDenseV1Config", True, _HEADS),
    ("persimmon", "PersimmonConfig", True, {}),
    ("xglm", "XGLMConfig", False, {
        "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 256}),
    ("codegen", "CodeGenConfig", False, {**_OLD, "n_ctx": 256, "rotary_dim": 4}),
    ("bitnet", "BitNetConfig", True, {}),
    ("diffllama", "DiffLlamaConfig", True, {}),
    ("apertus", "ApertusConfig", True, {}),
    ("doge", "DogeConfig", True, {}),
    ("vaultgemma", "VaultGemmaConfig", True, {**_HEADS, **_WINDOW}),
    ("minicpm3", "MiniCPM3Config", True, _LATENT),
    ("deepseek_v3", "DeepseekV3Config", True, {
        **_LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 16, "first_k_dense_replace": 1}),
    ("qwen3_moe", "Qwen3MoeConfig", True, {**_HEADS, **_EXPERTS, "moe_intermediate_size": 16}),
    ("mixtral", "MixtralConfig", True, _LOCAL_EXPERTS),
    ("olmoe", "OlmoeConfig", True, _EXPERTS),
    ("granitemoe", "GraniteMoeConfig", True, _LOCAL_EXPERTS),
    ("gpt_oss", "GptOssConfig", True, {
        **_HEADS, **_LOCAL_EXPERTS, **_WINDOW, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ("llama4", "Llama4TextConfig", True, {
        **_HEADS, "num_local_experts": 2, "intermediate_size_mlp": 32, "attention_chunk_size": 8,
        "interleave_moe_layer_step": 2}),
    ("qwen3_next", "Qwen3NextConfig", True, {
        **_LINEAR, **_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
    ("qwen3_5", "Qwen3_5TextConfig", True, _LINEAR),
    ("lfm2", "Lfm2Config", True, {"layer_types": ["conv", "full_attention"]}),
    ("granitemoehybrid", "GraniteMoeHybridConfig", True, {
        "num_local_experts": 0, "layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 16,
        "mamba_d_state": 8, "shared_intermediate_size": 32}),
    ("jamba", "JambaConfig", True, {
        "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4}),
    ("recurrent_gemma", "RecurrentGemmaConfig", True, {}),
    ("mamba", "MambaConfig", False, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    ("falcon_mamba", "FalconMambaConfig", False, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    ("rwkv", "RwkvConfig", False, {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 256}),
]  # fmt: skip


def make(folder: Path, tokenizer: Any, config_class: str, usual: bool, settings: dict[str, Any]) -> Path:
    """Save a random model of an architecture and a tokenizer; where sizes are usual, some rows have no token."""
    import torch
    import transformers

    sizes = {**_SIZES, "vocab_size": len(tokenizer) + 13} if usual else {"vocab_size": len(tokenizer)}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = getattr(transformers, config_class)(**{**sizes, **tokens, **settings})
    torch.manual_seed(1)
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
