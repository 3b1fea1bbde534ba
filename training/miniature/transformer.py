"""The miniature's transformer: FLUX's architecture at a width of 192, with massive channels from the start."""

from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from miniature.autoencoder import LATENT_CHANNELS
from miniature.text import WIDTH as TEXT_WIDTH

HEADS, HEAD_WIDTH = 6, 32
DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 8
CAPTURED = 7  # block whose input is the feature, counting double blocks first
MASSIVE = (37, 141, 186)  # channels
MASSIVE_SHARES = (1.0, -1.75, 0.75)  # of MASSIVE_VALUE; they add up to 0, so that layer norm's mean does not shift
COARSE_CHANNELS = 4  # leading channels of a latent that the massive channels do not follow
MASSIVE_VALUE = 450.0  # magnitude of the first massive channel; the other channels start at about 0.5
MASSIVE_SPREAD = 100.0  # norm of the weights from a token's latents to each of the first two massive channels
GAIN = 60.0  # initial AdaLN gain of ordinary channels, which undoes the shrinking caused by the massive ones
MASSIVE_GAIN = 0.5  # initial AdaLN gain of the massive channels
GUIDANCE = 3.5


class Captured(NamedTuple):
    """Result of `run`.

    Attributes:
        adaln: Tokens after the captured block's AdaLN, float32 [n, tokens, width].
        discarded: The same, with the massive channels set to zero before the layer norm.
        raw: Tokens entering the captured block, float32 [n, tokens, width].
        velocity: Predicted velocity, float32 [m, tokens, latents], for the images in `flow`.
    """

    adaln: Tensor
    discarded: Tensor
    raw: Tensor
    velocity: Tensor | None


def build() -> FluxTransformer2DModel:
    """Return a new transformer with random weights and its massive channels in place."""
    model = FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=DOUBLE_BLOCKS,
        num_single_layers=SINGLE_BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )
    with torch.no_grad():
        for embedder in (model.x_embedder, model.context_embedder):
            embedder.bias.zero_()
            for channel, share in zip(MASSIVE, MASSIVE_SHARES, strict=True):
                embedder.weight[channel] = 0
                embedder.bias[channel] = share * MASSIVE_VALUE
        model.x_embedder.weight[list(MASSIVE)] = massive_weights(MASSIVE_SPREAD)
        for block in model.transformer_blocks:
            _undo_massive(block.norm1.linear, ("shift", "scale", "gate") * 2)
            _undo_massive(block.norm1_context.linear, ("shift", "scale", "gate") * 2)
        for block in model.single_transformer_blocks:
            _undo_massive(block.norm.linear, ("shift", "scale", "gate"))
        _undo_massive(model.norm_out.linear, ("scale", "shift"))
        model.proj_out.weight.mul_(0.1)
        model.proj_out.bias.zero_()
    # Training would otherwise cancel the changes of the massive channels within the first blocks.
    for layer in (model.x_embedder, model.context_embedder, *_writing_layers(model)):
        layer.weight.register_hook(_without_massive_rows)
        layer.bias.register_hook(_without_massive_rows)
    return model


def massive_weights(spread: float) -> Tensor:
    """Return weights that let the massive channels follow fine detail.

    The first latent channels hold brightness and coarse shape, which two views of a place share. The others hold
    detail, which differs between views. Two massive channels follow random directions of the detail, and the third one
    balances them. So the direction of the raw tokens says little about the place, while their mean stays, and layer
    norm with AdaLN can undo the change.

    Args:
        spread: Norm of the weights of the first two channels.

    Returns:
        Weights from the latents of a token to the massive channels, float32 [3, 64].
    """
    weights = torch.randn(2, 4 * LATENT_CHANNELS, generator=torch.Generator().manual_seed(1))
    weights[:, : 4 * COARSE_CHANNELS] = 0
    weights = spread * nn.functional.normalize(weights, dim=1)
    return torch.cat([weights, -weights.sum(0, keepdim=True)])


@torch.no_grad()
def scale_residual(model: FluxTransformer2DModel, factor: float) -> None:
    """Scale the residual stream, whose size layer norm ignores.

    Args:
        model: The transformer, which is changed.
        factor: A power of two, so that float16 weights are scaled exactly.
    """
    for layer in (model.x_embedder, model.context_embedder, *_writing_layers(model)):
        layer.weight *= factor
        layer.bias *= factor


def _writing_layers(model: FluxTransformer2DModel) -> list[nn.Linear]:
    """Return the layers whose outputs the blocks add to the residual stream."""
    layers = [block.proj_out for block in model.single_transformer_blocks]
    for block in model.transformer_blocks:
        layers += [block.attn.to_out[0], block.attn.to_add_out, block.ff.net[2], block.ff_context.net[2]]
    return layers


def _undo_massive(linear: nn.Linear, parts: tuple[str, ...]) -> None:
    """Initialize a modulation layer so that ordinary channels keep their size behind the layer norm."""
    linear.weight.mul_(0.1)
    for part, bias in zip(parts, linear.bias.chunk(len(parts)), strict=True):
        if part == "scale":
            bias.fill_(GAIN - 1)
            bias[list(MASSIVE)] = MASSIVE_GAIN - 1
        else:
            bias.fill_(1.0 if part == "gate" else 0.0)


def _without_massive_rows(gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept[list(MASSIVE)] = 0
    return kept


def pack(latents: Tensor) -> Tensor:
    """Return tokens [n, tokens, 64] of latents [n, 16, h, w]: squares of 2x2, as FLUX packs them."""
    n, channels, height, width = latents.shape
    squares = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, height // 2 * (width // 2), channels * 4)


def positions(rows: int, columns: int) -> Tensor:
    """Return the position of each token for the rotary embedding, float32 [tokens, 3]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(x), y, x], -1).reshape(-1, 3).float()


def run(
    model: FluxTransformer2DModel,
    tokens: Tensor,
    text: tuple[Tensor, Tensor],
    sigma: Tensor,
    guidance: Tensor,
    grid: tuple[int, int],
    flow: Tensor | None,
) -> Captured:
    """Run the blocks before the captured one on all images, and the remaining blocks on some.

    Args:
        model: The transformer.
        tokens: Packed noisy latents, float32 [n, tokens, 64].
        text: T5 embeddings [n, words, width] and pooled CLIP vectors [n, width].
        sigma: Noise level of each image, float32 [n].
        guidance: Guidance scale of each image, float32 [n].
        grid: Rows and columns of tokens.
        flow: Numbers of the images whose velocity is predicted, or None.
    """
    words, pooled = text
    # The residual stream stays in float32: bfloat16 would round ordinary channels added to massive ones.
    with torch.autocast("cpu", enabled=False):
        hidden = nn.functional.linear(tokens.float(), model.x_embedder.weight, model.x_embedder.bias)
        context = nn.functional.linear(words.float(), model.context_embedder.weight, model.context_embedder.bias)
    embedding = model.time_text_embed(sigma * 1000, guidance * 1000, pooled)
    ids = torch.cat([torch.zeros(words.shape[1], 3), positions(*grid)])
    rotary = model.pos_embed(ids)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    for block in blocks[:CAPTURED]:
        context, hidden = block(hidden, context, embedding, rotary)
    norm = blocks[CAPTURED].norm
    shift, scale, _ = norm.linear(norm.silu(embedding)).float().chunk(3, 1)
    adaln, discarded = (
        nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
        for x in (hidden, discard(hidden))
    )
    velocity = None
    if flow is not None:
        context, rest, embedding = context[flow], hidden[flow], embedding[flow]
        for block in blocks[CAPTURED:]:
            context, rest = block(rest, context, embedding, rotary)
        velocity = model.proj_out(model.norm_out(rest, embedding)).float()
    return Captured(adaln, discarded, hidden, velocity)


def discard(tokens: Tensor) -> Tensor:
    """Return tokens whose massive channels are zero."""
    mask = torch.ones(tokens.shape[-1])
    mask[list(MASSIVE)] = 0
    return tokens * mask


class TrainingAttention:
    """Attention of FLUX as plain matrix products, which a CPU differentiates faster than its fused attention."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """Return the attention's output; with text, its output for image and text."""
        assert image_rotary_emb is not None

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = _normalize(heads(attn.to_q(hidden_states)), attn.norm_q)
        key = _normalize(heads(attn.to_k(hidden_states)), attn.norm_k)
        value = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            context = encoder_hidden_states
            query = torch.cat([_normalize(heads(attn.add_q_proj(context)), attn.norm_added_q), query], 2)
            key = torch.cat([_normalize(heads(attn.add_k_proj(context)), attn.norm_added_k), key], 2)
            value = torch.cat([heads(attn.add_v_proj(context)), value], 2)
        cosine, sine = (table[:, ::2].to(query.dtype) for table in image_rotary_emb)
        query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        weights = torch.softmax(query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2), -1)
        output = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return output
        text, image = output.split([context.shape[1], hidden_states.shape[1]], 1)
        return attn.to_out[0](image), attn.to_add_out(text)


def _normalize(x: Tensor, norm: Any) -> Tensor:
    return x * (x.float().square().mean(-1, keepdim=True) + norm.eps).rsqrt().to(x.dtype) * norm.weight.to(x.dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate pairs of channels, and leave even channels in the first half and odd ones in the second.

    Query and key are reordered alike, so that their products are those of the interleaved order.
    """
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat([even * cosine - odd * sine, odd * cosine + even * sine], -1)
