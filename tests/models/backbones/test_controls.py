import pytest
import torch
from transformers import GPT2Config, GPT2Model

from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.controls import AttentionBody


def test_the_attention_body_is_a_gpt2_of_one_layer_without_its_feed_forward_half() -> None:
    torch.manual_seed(0)
    body = AttentionBody(width=16, heads=4, max_length=10, dropout=0.0)
    gpt2 = GPT2Model(GPT2Config(vocab_size=1, n_positions=10, n_embd=16, n_head=4, n_layer=1)).eval()
    own, theirs = body.state_dict(), gpt2.state_dict()
    names = {"layers.0.norm": "h.0.ln_1", "layers.0.attention": "h.0.attn", "positions": "wpe", "norm": "ln_f"}
    for name, value in own.items():
        prefix = next(prefix for prefix in names if name.startswith(f"{prefix}."))
        theirs[names[prefix] + name.removeprefix(prefix)].copy_(value)
    for name in ("weight", "bias"):
        theirs[f"h.0.mlp.c_proj.{name}"].zero_()
    embeddings = torch.randn(3, 7, 16)
    expected = gpt2(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(body(embeddings), expected, atol=1e-5, rtol=1e-5)


def test_the_names_of_its_parameters() -> None:
    ends = [f"{layer}.{kind}" for layer in ("c_attn", "c_proj") for kind in ("weight", "bias")]
    expected = {"positions.weight", "norm.weight", "norm.bias", "layers.0.norm.weight", "layers.0.norm.bias"}
    expected |= {f"layers.0.attention.{end}" for end in ends}
    assert {name for name, _ in AttentionBody(8, 2, 5, 0.1).named_parameters()} == expected


def test_padding_after_the_tokens_changes_nothing() -> None:
    torch.manual_seed(0)
    body = AttentionBody(8, 2, 10, dropout=0.0)
    embeddings = torch.randn(2, 10, 8)
    padded = torch.cat([embeddings[:, :6], 100 * torch.randn(2, 4, 8)], dim=1)
    mask = (torch.arange(10) < 6).expand(2, 10)
    torch.testing.assert_close(body(padded, mask)[:, :6], body(embeddings[:, :6]), atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    body = AttentionBody(8, 2, 5, dropout=0.5)
    embeddings = torch.randn(2, 5, 8)
    assert not torch.equal(body(embeddings), body(embeddings))
    body.eval()
    assert torch.equal(body(embeddings), body(embeddings))


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_width(heads: int) -> None:
    with pytest.raises(UsageError, match=f"cannot have {heads} heads"):
        AttentionBody(8, heads, 5, 0.1)
