"""`safety:` what nobody may see, as the configuration says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from comptroller_audit.patterns import CREDENTIALS, Pattern

__all__ = ["SafetyConfig"]


class SafetyConfig(BaseModel):
    """`safety:` which personal data is looked for in all that leaves. Credentials are, unless that is turned off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pii_redaction: tuple[Pattern, ...] = Field(default=(), max_length=len(Pattern))
    withhold_credentials: bool = True

    @property
    def patterns(self) -> frozenset[Pattern]:
        """What is looked for. Naming `api_key` looks for credentials, whatever the other key says."""
        always = (CREDENTIALS,) if self.withhold_credentials else ()
        return frozenset((*self.pii_redaction, *always))
