# SPDX-License-Identifier: Apache-2.0
"""What is drawn into a patient's ECG and chest film: signs with their sizes, and the faults of acquisition."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EcgSigns:
    """
    One ECG. Times in ms, voltages in mV, rates per minute, angles in degrees.

    Args:
        male (`bool`): men have 20 % higher voltages in V2-V5.
        rhythm (`str`): `"sinus"`, `"af"` (no P waves, fibrillatory waves), `"flutter"` (sawtooth of 300/min in II, III,
            aVF, conducted 2:1) or `"paced"` (ventricular: a spike before a wide QRS of left bundle branch form).
        rate (`float`): mean ventricular rate.
        rr_variation (`float`): standard deviation of the RR intervals over their mean, premature beats left out.
        p_ms, pr_ms, qrs_ms, qtc_ms (`float`): QT = QTc - 154 (1 - RR in s).
        axis (`float`): frontal QRS axis.
        t_scale (`float`): factor of all T waves.
        lvh (`float`): excess (mV) of S in V1 plus R in V5 or V6 over the limit of 3.5; 0 for none.
        strain (`bool`): with LVH: ST depression and asymmetric T inversion in I, aVL, V5, V6.
        infarct (`str`, *optional*): old infarct, Q waves or QS and inverted T in a territory: `"inferior"`,
            `"anterior"`, `"septal"`, `"anteroseptal"`.
        ischaemia (`str`, *optional*): horizontal ST depression in `"lateral"`, `"inferior/lateral"` or `"extensive"`
            leads, or `"lateral T"` inversion alone.
        ischaemia_mv (`float`): its ST level, -0.2 to -0.05.
        acute (`str`, *optional*): ST elevation in `"inferior"`, `"anterior"` or `"lateral"`, with reciprocal depression.
        acute_mv (`float`): its ST level, 0.1 and more.
        nonspecific (`str`, *optional*): small ST-T changes in `"lateral"`, `"inferior"`, `"inferior/lateral"`,
            `"anterior"` or `"extensive"` leads.
        nonspecific_mv (`float`): their ST level, within 0.05 of zero; T waves there are flat.
        conduction (`str`, *optional*): `"lbbb"`, `"rbbb"`, `"rbbb_lafb"` (with left anterior fascicular block).
        low_voltage (`str`, *optional*): `"limb"` (QRS below 0.5), `"chest"` (below 1.0) or `"generalized"`.
        left_atrium (`bool`): broad P with a negative end in V1.
        pacs, pvcs (`int`): premature beats within the ten seconds.
        tented_t (`bool`): tall narrow T of hyperkalaemia.
        flat_t_u (`bool`): flat T and a U wave of hypokalaemia.
        poor_r_progression (`bool`): R stays below 0.3 mV up to V3.
        f_wave_mv (`float`): height of fibrillatory waves in V1.
        wander_mv, mains_mv, emg_mv (`float`): baseline wander (peak to peak), 60 Hz and muscle noise (RMS).
        limb_swap (`bool`): the arm electrodes are exchanged.
        misplaced (`bool`): chest electrodes an interspace off, V1-V4 mix with their neighbors.
        dead_lead (`int`, *optional*): index of a lead that is flat.
        gap (`tuple[int, float, float]`, *optional*): lead, start and length (s) of missing samples (NaN).
        variety (`float`): how far the shape of the waves and the recording stray from the mean, within normal limits;
            0 for not at all, 1 for as far as among people.
    """

    male: bool
    rhythm: str
    rate: float
    rr_variation: float
    p_ms: float
    pr_ms: float
    qrs_ms: float
    qtc_ms: float
    axis: float
    t_scale: float = 1.0
    lvh: float = 0.0
    strain: bool = False
    infarct: str | None = None
    ischaemia: str | None = None
    ischaemia_mv: float = 0.0
    acute: str | None = None
    acute_mv: float = 0.0
    nonspecific: str | None = None
    nonspecific_mv: float = 0.0
    conduction: str | None = None
    low_voltage: str | None = None
    left_atrium: bool = False
    pacs: int = 0
    pvcs: int = 0
    tented_t: bool = False
    flat_t_u: bool = False
    poor_r_progression: bool = False
    f_wave_mv: float = 0.1
    wander_mv: float = 0.12
    mains_mv: float = 0.01
    emg_mv: float = 0.006
    limb_swap: bool = False
    misplaced: bool = False
    dead_lead: int | None = None
    gap: tuple[int, float, float] | None = None
    variety: float = 0.0


@dataclass(frozen=True)
class FilmSigns:
    """
    One frontal chest film. The patient's right is on the left of the picture.

    Args:
        male (`bool`): breast shadows on the films of women.
        view (`str`): `"PA"` or `"AP"` (supine: larger heart, higher diaphragm, effusions as haze).
        ctr (`float`): cardiothoracic ratio as it measures on the film, view and inspiration included.
        effusion (`str`, *optional*): `"right"`, `"left"` or `"both"`.
        effusion_ml (`float`): from 200 (a blunted angle) to 1500.
        oedema (`float`): 0 none, up to 1: upper vessels, then Kerley B lines at the bases, above 0.6 bat-wing haze.
        opacity (`str`, *optional*): `"lobar"` (a quarter to half of a lung), `"patchy"` (patches of 2-5 cm) or
            `"interstitial"` (a net of lines on both sides).
        opacity_zones (`tuple[str]`): where: `"right base"`, `"left base"`, `"right middle"`, `"left middle"`,
            `"right upper"`, `"left upper"`, or `"both sides"` for an interstitial one.
        opacity_extent (`float`): 0 to 1.
        atelectasis (`str`, *optional*): basal bands of 3-10 cm, `"right"`, `"left"` or `"both"`.
        tube (`bool`): endotracheal tube, tip 3-7 cm above the carina.
        line (`bool`): central venous line, tip in the superior vena cava.
        pacemaker (`bool`): generator below the left clavicle, lead to the right ventricle.
        wires (`bool`): sternotomy wires.
        aorta (`bool`): wide aortic knob with calcified rim, unfolded.
        hyperinflation (`bool`): low flat diaphragms, long dark lungs, narrow heart.
        rotation (`float`): degrees, within 3.
        gamma (`float`): 0.8 to 1.25.
        poor_inspiration (`bool`): high diaphragms.
        variety (`float`): how far body, position and exposure stray from the mean; 0 for not at all, 1 for as far as
            among people and sites.
    """

    male: bool
    view: str
    ctr: float
    effusion: str | None = None
    effusion_ml: float = 0.0
    oedema: float = 0.0
    opacity: str | None = None
    opacity_zones: tuple[str, ...] = ()
    opacity_extent: float = 0.0
    atelectasis: str | None = None
    tube: bool = False
    line: bool = False
    pacemaker: bool = False
    wires: bool = False
    aorta: bool = False
    hyperinflation: bool = False
    rotation: float = 0.0
    gamma: float = 1.0
    poor_inspiration: bool = False
    variety: float = 0.0
