"""A price file's text: on-demand offers that differ in id, price and currency."""


def offer(offer_id: str, price: str = "0.10", currency: str = "USD") -> str:
    """One table [[price]]; the id as TOML has it between quotes."""
    return f"""[[price]]
offer_id = "{offer_id}"
provider = "local"
region = "here"
zone = "here-1"
tier = "ON_DEMAND"
instance_type = "n"
capacity = {{cpu = 2.0}}
price = "{price}"
currency = "{currency}"
startup_p50_s = 5
startup_p90_s = 8
startup_p99_s = 10
"""
