"""The masked autoencoder (MAE, arXiv 2111.06377) on a timm Vision Transformer, without the work MAE can do without.

Only the visible patches are embedded; the decoder reads [class, visible, removed] in the order of the noise, since
blocks do not care for order and positions travel with their tokens; only removed patches are predicted, and only they
go through the last block. The function computed is MAE's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vea.config import DecoderConfig, EncoderConfig
from vea.errors import VeaError
from vea.losses.reconstruction import patch_statistics, reconstruction
from vea.models.vit import build_encoder, patch_side, sincos_positions
from vea.models.weight_files import read_weight_file
from vea.models.weights import import_mae, load_encoder
from vea.storage.checkpoint import load_weights


class Encoded(NamedTuple):
    """What the encoder made of the visible patches."""

    latent: Tensor  # (B, 1 + K, D): class token and the K visible patches, after the encoder's norm
    order: Tensor  # int64 (B, N): patches by rising noise; the first K are visible
    patches: Tensor  # (B, N, P): pixels of all patches as given, P = side * side * channels


class MaskedOutput(NamedTuple):
    """The result of ``MaskedAutoencoder.forward``."""

    loss: Tensor  # scalar fp32
    prediction: Tensor  # (B, N, P), of all patches; the loss reads those removed
    mask: Tensor  # (B, N); 1 = removed
    latent: Tensor  # (B, 1 + K, D)
    cls_projected: Tensor  # (B, decoder width)


class DecoderBlock(Block):
    """timm's block, which can make the output of some tokens only: they attend to all tokens, the others do not."""

    def forward(self, tokens: Tensor, wanted: slice | None = None) -> Tensor:  # type: ignore[override]
        """Returns (B, M, width) of (B, L, width): the block's output at ``wanted``; None for all."""
        if wanted is None:
            return super().forward(tokens)
        attention: Any = self.attn
        normed, width = self.norm1(tokens), tokens.shape[-1]
        weight, bias = attention.qkv.weight, attention.qkv.bias
        queries = F.linear(normed[:, wanted], weight[:width], bias[:width])
        keys, values = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values)]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        tokens = tokens[:, wanted] + attention.proj(attended)
        return tokens + self.mlp(self.norm2(tokens))


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder and the loss between them.

    ``encoder`` is the timm model; the decoder's parameters have the names of facebookresearch/mae, so its weights fit
    through ``vea.models.weights.import_mae``. Positions are fixed sine-cosine tables.

    Args:
        encoder: the timm model; the weights of ``pretrained`` are loaded, the decoder's too where the file has them.
        decoder: width, depth and heads.
        image_size: side of the square images.
        mask_ratio: share of patches that is removed; K = int(N * (1 - ratio)) stay.
        norm_pix: reconstruct patches normalised by their own mean and deviation.
        checkpointing: recompute activations in the backward pass.
        class_token_only: every patch gets the prediction at the class token, as in the release of UniEmoX.
        predicted: share of the removed patches that is predicted, those of lowest noise: a cheaper variant.
        frozen_blocks: the embedding and so many first blocks of the encoder do not learn.

    Raises:
        VeaError: the sizes do not fit each other, or the weights do not fit.
    """

    decoder_pos_embed: Tensor

    def __init__(
        self,
        encoder: EncoderConfig,
        *,
        decoder: DecoderConfig,
        image_size: int,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
        checkpointing: bool = False,
        class_token_only: bool = False,
        predicted: float = 1.0,
        frozen_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder.model_copy(update={"pretrained": None}), image_size=image_size)
        embed = self.encoder.patch_embed
        if (
            self.encoder.cls_token is None
            or self.encoder.num_prefix_tokens != 1
            or self.encoder.pos_embed is None
            or self.encoder.no_embed_class
            or not isinstance(embed, PatchEmbed)
            or not isinstance(embed.norm, nn.Identity)
        ):
            raise VeaError(
                f"model.encoder.name: masked pretraining needs a plain ViT with one class token, {encoder.name} is not "
                "one; take vit_base_patch16_224 or its relatives"
            )
        if decoder.width % decoder.heads:
            raise VeaError(f"model.decoder.width ({decoder.width}) is not a multiple of its heads ({decoder.heads})")
        self.patch = patch_side(self.encoder)
        self.num_patches = embed.num_patches
        self.num_kept = int(self.num_patches * (1 - mask_ratio))
        if not 0 < self.num_kept < self.num_patches:
            raise VeaError(
                f"model.mask_ratio {mask_ratio} keeps {self.num_kept} of {self.num_patches} patches; "
                "at least one must stay and one must go"
            )
        self.norm_pix, self.checkpointing = norm_pix, checkpointing
        self.class_token_only = class_token_only
        self.predicted = predicted

        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(decoder.width, decoder.heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm)
            for _ in range(decoder.depth)
        )
        self.decoder_norm = norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, self.patch**2 * embed.proj.in_channels)
        grid = embed.grid_size
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder.width, grid=grid), persistent=False)
        self._initialise()
        if encoder.pretrained:
            self._load(encoder.pretrained)
        if frozen_blocks:
            self._freeze_first(frozen_blocks)

    # ---------------------------------------------------------------------------------------------------------- set-up

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.encoder.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(len(projection), -1))  # the convolution seen as a linear layer
        cls_token, positions = self._class_and_positions()
        nn.init.normal_(cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        positions.copy_(sincos_positions(self.encoder.embed_dim, grid=self.encoder.patch_embed.grid_size))
        positions.requires_grad_(False)

    def _class_and_positions(self) -> tuple[Tensor, Tensor]:
        """Returns the encoder's class token (1, 1, D) and positions (1, 1 + N, D)."""
        return cast(Tensor, self.encoder.cls_token), cast(Tensor, self.encoder.pos_embed)

    def _load(self, path: str) -> None:
        self._load_weights(import_mae(read_weight_file(path)), where=path)

    def _load_weights(self, weights: dict[str, Tensor], *, where: str) -> None:
        load_encoder(self.encoder, weights, where=where)
        own = {name for name in self.state_dict() if not name.startswith("encoder.")}
        if own <= weights.keys():  # files with the encoder alone are the common case
            try:
                self.load_state_dict({name: weights[name] for name in own}, strict=False)
            except RuntimeError as error:
                raise VeaError(
                    f"{where}: its decoder does not fit model.decoder ({str(error).splitlines()[-1].strip()})"
                ) from None

    def _freeze_first(self, count: int) -> None:
        if count > len(self.encoder.blocks):
            blocks = len(self.encoder.blocks)
            raise VeaError(f"model.frozen_blocks ({count}) is more than the encoder's {blocks} blocks")
        for part in (self.encoder.patch_embed, self.encoder.norm_pre, *self.encoder.blocks[:count]):
            part.requires_grad_(False)
        self._class_and_positions()[0].requires_grad_(False)

    def freeze_decoder(self) -> None:
        """Stops the parts that only a reconstruction trains; ``decoder_embed`` makes the embedding and stays."""
        self.mask_token.requires_grad_(False)
        for part in (self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            part.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, path: str | Path, **changes: Any) -> MaskedAutoencoder:
        """Returns the model in a folder of ``vea import-weights``, or of a pretraining run, ready to evaluate.

        A folder with the encoder alone gets a decoder of MAE's size that has learned nothing.

        Args:
            path: the folder.
            changes: arguments of the constructor that replace those found there, such as ``norm_pix``.

        Raises:
            VeaError: there are no weights of a masked autoencoder.
        """
        weights, state = load_weights(path)
        task, config = state.get("task", {}), state.get("config", {})
        if "encoder" not in task:
            raise VeaError(f"{path} does not say what its encoder is; make the folder with `vea import-weights`")
        model, objective = config.get("model", {}), config.get("objective", {})
        arguments: dict[str, Any] = {
            "decoder": DecoderConfig(**(state.get("decoder") or model.get("decoder") or {})),
            "image_size": task["image_size"],
            "mask_ratio": model.get("mask_ratio", 0.75),
            "class_token_only": model.get("variant") == "released",
            "norm_pix": state.get("norm_pix", objective.get("norm_pix", False)),
        }
        mim = cls(EncoderConfig(**task["encoder"]), **{**arguments, **changes})
        mim._load_weights({n.removeprefix("model.mim."): value for n, value in weights.items()}, where=str(path))
        return mim.eval()

    # ---------------------------------------------------------------------------------------------------------- pixels

    def patchify(self, images: Tensor) -> Tensor:
        """Returns (B, N, P) pixels of patches, each in the order (row, column, channel), from (B, C, H, W)."""
        batch, channels, height, width = images.shape
        p = self.patch
        parts = images.reshape(batch, channels, height // p, p, width // p, p)
        return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, p * p * channels)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Returns (B, C, H, W): the inverse of ``patchify``."""
        batch, _, pixels = patches.shape
        (rows, columns), p = self.encoder.patch_embed.grid_size, self.patch
        parts = patches.reshape(batch, rows, columns, p, p, pixels // p**2)
        return parts.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, rows * p, columns * p)

    # ---------------------------------------------------------------------------------------------------- the two parts

    def encode(self, images: Tensor, noise: Tensor, *, num_kept: int | None = None) -> Encoded:
        """Returns the encoder's view of the K patches with the lowest noise.

        Args:
            images: (B, C, H, W), normalised.
            noise: (B, N), any numbers; ties go to the earlier patch, on every device.
            num_kept: K; None for that of ``mask_ratio``.

        A smaller view of whole patches has the positions of the whole one, scaled down to its grid.
        """
        patches = self.patchify(images)
        order = noise.argsort(dim=1, stable=True)
        small = patches.shape[1] != self.num_patches
        if small and num_kept is None:
            num_kept = max(1, patches.shape[1] * self.num_kept // self.num_patches)
        kept = order[:, : num_kept or self.num_kept]
        projection = self.encoder.patch_embed.proj
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P), pixels in the order of patchify
        tokens = F.linear(_take(patches, kept), weight, projection.bias)
        cls_token, positions = self._class_and_positions()
        if small:
            positions = self._scaled(positions, images.shape[2] // self.patch, images.shape[3] // self.patch)
        positions = positions.expand(len(tokens), -1, -1)
        tokens = torch.cat([cls_token + positions[:, :1], tokens + _take(positions[:, 1:], kept)], dim=1)
        tokens = self.encoder.norm_pre(self.encoder.pos_drop(tokens))
        return Encoded(self.encoder.norm(self._run(self.encoder.blocks, tokens)), order, patches)

    def _scaled(self, positions: Tensor, rows: int, columns: int) -> Tensor:
        """Returns (1, 1 + rows * columns, D) positions (1, 1 + N, D) averaged down to another grid."""
        grid = positions[:, 1:].unflatten(1, self.encoder.patch_embed.grid_size).permute(0, 3, 1, 2)
        scaled = F.interpolate(grid, size=(rows, columns), mode="area").flatten(2).transpose(1, 2)
        return torch.cat([positions[:, :1], scaled], 1)

    def project(self, latent: Tensor) -> Tensor:
        """Returns ``decoder_embed`` of tokens (..., D): the embedding alpha or beta for the class token."""
        return self.decoder_embed(latent)

    def decode(self, projected: Tensor, order: Tensor, *, visible_too: bool = False) -> Tensor:
        """Returns (B, M, P), the prediction of the first M removed patches in the order ``order[:, K:]``.

        M is N - K, or fewer with ``predicted``: the others have no token in the decoder.

        Args:
            projected: (B, 1 + K, width), ``project`` of the latent.
            order: (B, N) of ``encode``.
            visible_too: predict the visible patches as well, which no loss uses: (B, N, P) in ``order``.
        """
        num_kept = projected.shape[1] - 1
        if not visible_too:
            removed_count = order.shape[1] - num_kept
            order = order[:, : num_kept + max(1, round(self.predicted * removed_count))]
        positions = self.decoder_pos_embed.expand(len(order), -1, -1)
        placed = _take(positions[:, 1:], order)
        visible = projected[:, 1:] + placed[:, :num_kept]
        removed = self.mask_token + placed[:, num_kept:]
        tokens = torch.cat([projected[:, :1] + positions[:, :1], visible, removed], dim=1)
        first = 1 if visible_too else 1 + num_kept
        count = tokens.shape[1] - first
        wanted = slice(1) if self.class_token_only else slice(first, None)
        *blocks, last = self.decoder_blocks
        tokens = self._run([*blocks, partial(last, wanted=wanted)], tokens)
        prediction = self.decoder_pred(self.decoder_norm(tokens))
        return prediction.expand(-1, count, -1)  # of the class token alone, one for every patch

    def sample_losses(self, encoded: Encoded, prediction: Tensor) -> Tensor:
        """Returns (B,) fp32 reconstruction errors over the removed patches."""
        first = encoded.latent.shape[1] - 1
        target = _take(encoded.patches, encoded.order[:, first : first + prediction.shape[1]])
        return reconstruction(prediction, target, norm_pix=self.norm_pix)

    def _run(self, blocks: Iterable[Callable[[Tensor], Tensor]], tokens: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(blocks, tokens)
        for block in blocks:
            tokens = block(tokens)
        return tokens

    # ----------------------------------------------------------------------------------------------------- in one piece

    def forward(self, images: Tensor, mask_ratio: float | None = None, *, noise: Tensor | None = None) -> MaskedOutput:
        """Returns loss, prediction, mask and embeddings, as facebookresearch/mae computes them.

        Args:
            images: (B, C, H, W), normalised.
            mask_ratio: share of patches that is removed; None for the model's own.
            noise: (B, N); the K patches of lowest noise stay. None draws it.
        """
        if noise is None:
            noise = torch.rand(len(images), self.num_patches, device=images.device)
        encoded = self.encode(images, noise, num_kept=self._kept(mask_ratio))
        projected = self.project(encoded.latent)
        prediction = self.decode(projected, encoded.order, visible_too=True)
        num_kept = encoded.latent.shape[1] - 1
        places = encoded.order[..., None].expand_as(prediction)
        return MaskedOutput(
            loss=self.sample_losses(encoded, prediction[:, num_kept:]).mean(),
            prediction=torch.zeros_like(prediction).scatter(1, places, prediction),
            mask=self.mask(encoded.order, num_kept=num_kept),
            latent=encoded.latent,
            cls_projected=projected[:, 0],
        )

    def _kept(self, mask_ratio: float | None) -> int:
        if mask_ratio is None:
            return self.num_kept
        num_kept = int(self.num_patches * (1 - mask_ratio))
        if not 0 < num_kept < self.num_patches:
            raise VeaError(f"mask_ratio {mask_ratio} keeps {num_kept} of {self.num_patches} patches; "
                           "at least one must stay and one must go")  # fmt: skip
        return num_kept

    def mask(self, order: Tensor, *, num_kept: int | None = None) -> Tensor:
        """Returns (B, N) fp32: 1 = removed."""
        mask = torch.ones(order.shape, device=order.device)
        return mask.scatter(1, order[:, : num_kept or self.num_kept], 0.0)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, *, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (masked, reconstruction), (B, C, H, W) each, in the statistics of ``images``.

        Removed patches are 0 in the first and predicted in the second; with ``norm_pix`` the prediction is shown with
        the true mean and deviation of its patch, which the network does not know.
        """
        encoded = self.encode(images, noise)
        removed = encoded.order[:, self.num_kept :]
        prediction = self.decode(self.project(encoded.latent), encoded.order, visible_too=True)
        prediction = prediction[:, self.num_kept :].float()
        patches = encoded.patches.float()
        if self.norm_pix:
            mean, deviation = patch_statistics(_take(patches, removed))
            prediction = prediction * deviation + mean
        filled = patches.scatter(1, removed[..., None].expand_as(prediction), prediction)
        visible = patches * (1 - self.mask(encoded.order))[..., None]
        return self.unpatchify(visible), self.unpatchify(filled)


def _take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Returns (B, M, D): the tokens (B, N, D) at ``indices`` (B, M)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
