-- The lower end of Wilson's 95 % interval of a share: `passed` of `asked` independent probes. Where a correction
-- has several probes, count corrections: such probes stand or fall together.
create macro wilson_low(passed, asked) as if(
    asked = 0,
    null,
    greatest(0, (
        passed / asked + 1.920729 / asked
        - 1.959964 * sqrt(passed / asked * (1 - passed / asked) / asked + 0.960365 / (asked * asked))
    ) / (1 + 3.841459 / asked))
)
