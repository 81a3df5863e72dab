"""Do guided encoders do better downstream, and are the settings of fine-tuning and the recipe good ones?"""
