import torch.nn as nn

from .model import WanAttentionBlock, WanModel


class VaceWanAttentionBlock(WanAttentionBlock):
    def forward(self, c, x, **kwargs):
        c = super().forward(c + x, **kwargs)
        return c, c


class BaseWanAttentionBlock(WanAttentionBlock):
    def forward(self, x, hints, **kwargs):
        x = super().forward(x, **kwargs)
        return x + hints.pop(0) if hints else x


class VaceWanModel(WanModel):
    def __init__(self, dim=32, num_heads=4, num_layers=3, vace_layers=2):
        super().__init__("t2v", dim, num_heads, num_layers)
        kind = "t2v_cross_attn"
        self.blocks = nn.ModuleList(BaseWanAttentionBlock(kind, dim, num_heads) for _ in range(num_layers))
        self.vace_blocks = nn.ModuleList(VaceWanAttentionBlock(kind, dim, num_heads) for _ in range(vace_layers))

    def forward_vace(self, x, kwargs):
        c, hints = x, []
        for block in self.vace_blocks:
            c, skip = block(c, x=x, **kwargs)
            hints.append(skip)
        return hints

    def forward(self, x, t, context, seq_len):
        x, kwargs, shape = self.embed(x, t, context)
        hints = self.forward_vace(x, kwargs)
        for block in self.blocks:
            x = block(x, hints=hints, **kwargs)
        return self.unembed(x, shape)
