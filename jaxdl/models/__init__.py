"""Models: pure Flax Linen modules, one file a family."""

from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention, attention
from jaxdl.models.autoencoder import (
    VAE,
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    vae_conv,
    vae_mlp,
)
from jaxdl.models.bert import BERT, bert_base, bert_large, bert_tiny
from jaxdl.models.bert_heads import BERTClassifier, BERTMaskedLM, BERTPretraining, BERTTagger
from jaxdl.models.cnn import CNN
from jaxdl.models.cross_attention import MultiHeadAttention
from jaxdl.models.deepspeech import DeepSpeech, deepspeech2
from jaxdl.models.gpt import GPT, gpt2_1_5b, gpt2_124m, gpt2_350m, gpt2_774m
from jaxdl.models.gpt_mixture import MixtureGPT
from jaxdl.models.inception import AuxiliaryLogits, InceptionV3, inception_v3
from jaxdl.models.layers import BatchNorm, to_float
from jaxdl.models.lenet import LeNet5
from jaxdl.models.llama import Llama, llama2_7b, llama3_2_1b, llama3_8b
from jaxdl.models.masks import Reach, segment_mask
from jaxdl.models.mixture import MixtureFeedForward
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from jaxdl.models.rnn import RNN, RNNClassifier, RNNLanguageModel, RNNTagger
from jaxdl.models.rotary import Rotary, RotaryScaling
from jaxdl.models.simclr import SimCLR
from jaxdl.models.stack import REMAT_POLICIES, stack_layers, unstack_layers
from jaxdl.models.transformer import Transformer, transformer_base, transformer_big
from jaxdl.models.vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from jaxdl.models.vit import ViT, resize_positions, vit_b16, vit_l16, vit_s16, vit_ti16
from jaxdl.models.wavenet import WaveNet, wavenet_30

__all__ = [
    "BERT",
    "CNN",
    "GPT",
    "MLP",
    "REMAT_POLICIES",
    "RNN",
    "VAE",
    "VGG",
    "Autoencoder",
    "AuxiliaryLogits",
    "BERTClassifier",
    "BERTMaskedLM",
    "BERTPretraining",
    "BERTTagger",
    "BatchNorm",
    "ConvDecoder",
    "ConvEncoder",
    "DeepSpeech",
    "InceptionV3",
    "LeNet5",
    "Llama",
    "MLPDecoder",
    "MixtureFeedForward",
    "MixtureGPT",
    "MultiHeadAttention",
    "RNNClassifier",
    "RNNLanguageModel",
    "RNNTagger",
    "Reach",
    "ResNet",
    "Rotary",
    "RotaryScaling",
    "SelfAttention",
    "SimCLR",
    "Transformer",
    "ViT",
    "WaveNet",
    "attention",
    "bert_base",
    "bert_large",
    "bert_tiny",
    "constrain",
    "deepspeech2",
    "gpt2_1_5b",
    "gpt2_124m",
    "gpt2_350m",
    "gpt2_774m",
    "inception_v3",
    "llama2_7b",
    "llama3_2_1b",
    "llama3_8b",
    "resize_positions",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "segment_mask",
    "stack_layers",
    "to_float",
    "transformer_base",
    "transformer_big",
    "unstack_layers",
    "vae_conv",
    "vae_mlp",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b16",
    "vit_l16",
    "vit_s16",
    "vit_ti16",
    "wavenet_30",
]
