-- The upper end of Wilson's 95 % interval of a share; see wilson_low.
create macro wilson_high(passed, asked) as if(
    asked = 0,
    null,
    least(1, (
        passed / asked + 1.920729 / asked
        + 1.959964 * sqrt(passed / asked * (1 - passed / asked) / asked + 0.960365 / (asked * asked))
    ) / (1 + 3.841459 / asked))
)
