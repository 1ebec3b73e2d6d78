"""The inference service: COVID-19 / Normal on frontal chest X-rays.

Research software, no medical device.
"""
