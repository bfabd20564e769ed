"""Networks of other papers, one file each, with the same contract as `model.RecSalNet`."""
