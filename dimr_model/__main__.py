"""``python -m dimr_model`` prints the family's table."""

from dimr_model.complexity import family_table


def main() -> None:
    """Print one line per variant, counted on the spot."""
    line = "{:16} {:>8} {:>12} {:>15} {:>15} {:>9}"
    print(line.format("variant", "input", "layers", "widths", "parameters", "GMAC"))
    for row in family_table():
        counts = f"{row['parameters']:,}", f"{row['macs'] / 1e9:.2f}"
        print(line.format(f"DiMR-{row['variant']}", row["input"], row["layers"], row["widths"], *counts))


if __name__ == "__main__":
    main()
