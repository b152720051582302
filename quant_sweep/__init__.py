"""How few bits can a trained CNN take, with which calibration, and where does it break?"""
