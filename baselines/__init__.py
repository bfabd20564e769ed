"""Networks to compare with, one file a family, each a `saliency_model.SaliencyModel`; `MODELS` has them all by name."""
from baselines.recsal_lite import RecSalLite
from baselines.salema import SalCLSTM30, SalCLSTM56, SalEMA, SalGAN
from baselines.smcf import SMCF
from baselines.stsnet import SSNet, STSConvNet, STSMaxNet, TSNet
from baselines.tased_net import TASEDNet
from model import RecSalNet

MODELS = {  # what --model takes
    "recsalnet": RecSalNet, "tased_net": TASEDNet,
    "salema": SalEMA, "salgan": SalGAN, "salclstm30": SalCLSTM30, "salclstm56": SalCLSTM56,
    "ssnet": SSNet, "tsnet": TSNet, "stsmaxnet": STSMaxNet, "stsconvnet": STSConvNet, "smcf": SMCF,
    "recsal_lite": RecSalLite,
}
