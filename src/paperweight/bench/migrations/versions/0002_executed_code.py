"""Trials say in which state of the code they ran and, where it was recorded, which definitions they executed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add group, state and executed units; hashes of whole files go.

    What is there already was left by an earlier version that was killed in the midst of this.
    """
    table = sa.inspect(op.get_bind())
    present = {column["name"] for column in table.get_columns("trial")}
    for column in (
        sa.Column("group_key", sa.String(64)),
        sa.Column("state", sa.String(16)),
        sa.Column("units", sa.JSON(none_as_null=True)),
    ):
        if column.name not in present:
            op.add_column("trial", column)
    if "ix_trial_group_key" not in {index["name"] for index in table.get_indexes("trial")}:
        op.create_index("ix_trial_group_key", "trial", ["group_key"])
    if "code" in present:
        op.drop_column("trial", "code")


def downgrade() -> None:
    """Bring back hashes of whole files, empty."""
    op.add_column("trial", sa.Column("code", sa.JSON, nullable=False, server_default="{}"))
    op.drop_index("ix_trial_group_key", "trial")
    for column in ("units", "state", "group_key"):
        op.drop_column("trial", column)
