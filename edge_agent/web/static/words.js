// Every word the page shows, Chinese and English. Names that the plant gave stay as they are.
const WORDS = {
  plant_time: ["工厂时间", "plant time"], health: ["运行状态", "health"], completeness: ["数据完整率", "data completeness"],
  kpis: ["关键指标", "Key figures"], delivery: ["数据送达", "Delivery"], live: ["实时数值", "Live values"],
  ok: ["正常", "all well"], partly: ["部分中断", "partly down"], not_ok: ["需要处理", "needs attention"], usable: ["可用", "usable"],
  closed: ["已完成", "closed"], running: ["进行中", "running"], window: ["时段", "window"], passed: ["已过", "passed"],
  details: ["全部数据列", "all columns"], coverage: ["覆盖率", "coverage"], estimated: ["估算占比", "estimated"],
  stale: ["过时", "stale"], none_yet: ["尚无完成的时段", "no window closed yet"], no_value: ["无有效数值", "no valid value"],
  good: ["良好", "good"], uncertain: ["存疑", "uncertain"], bad: ["无效", "bad"],
  reached: ["达到", "reached"], missed: ["未达到", "not reached"], below: ["低于", "below"], above: ["高于", "above"],
  within: ["未超", "within"], exceeded: ["超过", "exceeded"],
  tag: ["信号", "tag"], value: ["数值", "value"], unit: ["单位", "unit"], quality: ["质量", "quality"], age: ["时龄", "age"],
  sink: ["去向", "sink"], state: ["状态", "state"], pending: ["待送行数", "pending rows"], delivered: ["已送达", "delivered"],
  refused: ["被拒收", "refused"], dropped: ["已丢弃", "dropped"], error: ["说明", "remark"],
  starting: ["启动中", "starting"], up: ["正常", "up"], down: ["中断", "down"], failed: ["故障", "failed"], stopped: ["已停止", "stopped"],
  silent: ["无应答", "no answer"], never: ["尚无数据", "no data yet"], period: ["周期", "period"], pushed: ["推送", "pushed"],
  lost: ["与网关的连接已断开，数值停止更新，正在重连…", "Connection to the gateway lost. Values have stopped; reconnecting…"],
  conserved: ["日志守恒：每一行都有去向", "Log: every row is accounted for"], not_conserved: ["日志不守恒：有行数对不上", "Log: rows are not accounted for"],
  rows: ["行", "rows"], read: ["读取", "read"], substituted: ["缺测补位", "answered for"], derived: ["计算", "computed"],
  last: ["上一", "last"], speed: ["倍速", "speed"], losses: ["时间构成", "time"],
  energy: ["能耗", "energy"], oee: ["设备综合效率", "OEE"], emissions: ["烟气排放", "stack gas"],
  baseline: ["节能量", "savings"], demand: ["需量", "demand"], tariff: ["分时电费", "tariff"],
  "1min": ["1 分钟", "1 min"], "15min": ["15 分钟", "15 min"], "1h": ["1 小时", "1 h"], shift: ["班次", "shift"], "1d": ["日", "day"], "1mo": ["月", "month"], "1a": ["年", "year"], "12mo": ["近 12 个月", "12 months"],
};
Object.assign(WORDS, { balance: ["平衡", "balance"], "energy-by-state": ["分状态能耗", "energy by state"], product: ["产品能耗", "energy by product"], batch: ["批次", "batch"] });
Object.assign(WORDS, { computed: ["计算量", "computed tags"], raw: ["逐行", "each row"], alarm: ["报警", "alarm"], event: ["事件", "event"] });
Object.assign(WORDS, { check: ["计量核对", "meter check"] });
Object.assign(WORDS, {
  priority: ["优先级", "priority"], limit: ["限值", "limit"], since: ["自", "since"],
  journal: ["记录", "journal"], low: ["低", "low"], medium: ["中", "medium"], high: ["高", "high"], critical: ["紧急", "critical"],
  is_unacknowledged: ["未确认", "unacknowledged"], is_acknowledged: ["已确认", "acknowledged"], is_returned: ["已恢复未确认", "returned, unacknowledged"],
  is_latched: ["锁存未确认", "latched"], is_latched_acknowledged: ["锁存已确认", "latched, acknowledged"], is_shelved: ["搁置", "shelved"],
  is_suppressed: ["设计抑制", "suppressed by design"], is_out_of_service: ["停用", "out of service"],
});
Object.assign(WORDS, {  // delivery; {0} stands for a number or a name
  behind: ["滞后", "behind"], up_to_date: ["已同步", "up to date"], catching_up: ["补传中", "catching up"], comma: ["，", ", "],
  kind_history: ["本机历史库", "history on this box"], kind_mqtt: ["MQTT", "MQTT"], kind_influxdb: ["InfluxDB", "InfluxDB"],
  arriving: ["数据送达", "delivery"], arrives: ["数据全部送达", "all data arrives"], sink_down: ["{0} 已中断 {1}", "{0} has been down for {1}"], sink_late: ["{0} 补传中", "{0} is catching up"],
  arrives_now: ["数据正常送达", "data arrives"], refuses: ["部分拒收", "refuses some"], sink_refuses: ["{0} 拒收部分数据", "{0} refuses some rows"],
  none_refused: ["无拒收", "nothing refused"], some_refused: ["拒收 {0} 行", "{0} rows refused"],
  none_dropped: ["无丢弃", "nothing dropped"], some_dropped: ["丢弃 {0} 行", "{0} rows dropped"],
  kept_here: ["{0} 行保存在本机，恢复后自动补传", "{0} rows are kept here and follow when it is back"], room_more: ["本机还可再存约 {0}", "with room for about {0} more"],
  store_full: ["本机存储已满，正在丢弃最旧的行", "but the store is full: the oldest are being dropped"],
  backlog: ["正在补传历史积压 {0} 行", "catching up with a backlog of {0} rows"], backlog_stuck: ["历史积压 {0} 行，没有减少", "a backlog of {0} rows that does not get less"],
  about: ["约需 {0}", "about {0} left"], live_arrives: ["实时数据照常送达（{0} 行在途）", "live data arrives ({0} rows on the way)"],
  rows_behind: ["正在补传 {0} 行", "catching up with {0} rows"], not_keeping_up: ["送达跟不上：{0} 行待送，没有减少", "does not keep up: {0} rows wait and do not get fewer"],
  last_refusal: ["最近拒收原因：{0}", "refused last: {0}"], sink_not_conserved: ["此去向的行数对不上", "rows of this sink are not accounted for"],
  rows_of: ["数据时间", "time of the rows"], stream: ["数据流", "stream"], why: ["原因", "why"],
  refused_at: ["拒收于", "refused at"], and_more: ["另有 {0} 项", "{0} more"], more_refused: ["显示最近 {0} 行，共 {1} 行；本机只保留最近的拒收记录。", "The last {0} of {1}; only the newest are kept here."], all_kept: ["全部保留记录", "all that are kept"],
  gap_bytes: ["存储空间已满", "the budget was full"], gap_age: ["超过保存期限", "older than rows are kept"], gap_corrupt: ["磁盘上的记录已损坏", "damaged on the disk"],
  gap_told: ["已向该去向送达缺口标记", "the sink has been given a gap marker in their place"], gap_waits: ["缺口标记待送", "the gap marker for the sink waits"],
  more_dropped: ["显示最近 {0} 行，共 {1} 行；更早的明细不再保留。", "The last {0} of {1}; of older ones only the count is kept."],
  store: ["本机存储", "store on this box"], store_raw: ["原始数据 {0} / {1}（{2} %）", "raw {0} of {1} ({2} %)"], goes_back: ["可回溯至 {0}（{1}）", "back to {0} ({1})"],
  store_derived: ["计算结果 {0} / {1}", "computed {0} of {1}"], can_be_away: ["去向中断约 {0} 内不丢数据", "a sink can be away for about {0} without loss"],
  set_aside: ["日志文件曾损坏，已另存为 {0}（{1}，{2}）并新建日志继续采集；请检查磁盘，确认不再需要后删除该文件", "A damaged log was set aside as {0} ({1}, {2}) and a new one begun. Check the disk; delete the file when nobody needs it."],
});
// KPI columns and the names of the field's signals
const COLUMNS = {
  intensity: ["单位产品\u200b综合能耗", "energy per tonne"], total_kgce: ["综合能耗", "total energy"], output_t: ["产量", "output"],
  coverage: ["覆盖率", "coverage"], estimated: ["估算占比", "estimated"], quality: ["质量", "quality"],
  availability: ["可用率", "avail\u00adability"], effectiveness: ["表现性", "effec\u00adtiveness"], quality_ratio: ["合格率", "quality ratio"], oee: ["OEE", "OEE"],
  produced: ["产出", "produced"], good: ["合格", "good"], apt_s: ["实际生产时间", "production time"], pbt_s: ["计划忙时", "planned busy time"],
  aust_s: ["准备时间", "set-up time"], adet_s: ["故障延误", "delay"], adot_s: ["停机时间", "downtime"],
  actual: ["实际能耗", "energy used"], expected: ["校准能耗", "energy expected"], non_routine: ["非常规调整量", "non-routine adjustment"],
  saving_ipmvp: ["节能量（正为节约）", "saving (IPMVP, + saved)"], saving_gbt28750: ["节能量（负为节约，GB/T 28750）", "saving (GB/T 28750, − saved)"],
  enpi: ["能源绩效比", "EnPI ratio"], cusum: ["累积和", "CUSUM"], cusum_limit: ["累积和控制限", "CUSUM limit"],
  total_ipmvp: ["累计节能量（正为节约）", "total saving (IPMVP, + saved)"], total_gbt28750: ["累计节能量（负为节约，GB/T 28750）", "total saving (GB/T 28750, − saved)"],
  uncertainty_68: ["不确定度（68 %）", "uncertainty (68 %)"], uncertainty_90: ["不确定度（90 %）", "uncertainty (90 %)"],
  fsu_68: ["节能量相对不确定度（68 %）", "fractional uncertainty (68 %)"], fsu_90: ["节能量相对不确定度（90 %）", "fractional uncertainty (90 %)"],
  significant: ["节能量显著", "significant"], in_range: ["变量在基准范围内", "within baseline range"], phase: ["阶段", "phase"], accepted: ["模型合格", "model accepted"],
  n: ["基期样本数", "baseline rows"], left_out: ["基期剔除数", "baseline rows left out"], missed: ["统计期剔除数", "reporting rows left out"], n_effective: ["独立样本数", "independent rows"],
  r2: ["决定系数 R²", "R²"], r2_adjusted: ["调整 R²", "adjusted R²"], cv_rmse: ["CV(RMSE)", "CV(RMSE)"], nmbe: ["NMBE", "NMBE"], p_f: ["F 检验 p 值", "p of F"], rho: ["残差自相关", "autocorrelation"], b_0: ["截距", "intercept"],
  energy_kwh: ["电量", "energy"], power_kw: ["有功功率", "power"], demand_kw: ["滑差需量", "sliding demand"], demand_fixed_kw: ["区间需量", "fixed demand"],
  forecast_kw: ["本区间预测需量", "forecast demand"], demand_max_kw: ["最大需量", "maximum demand"], contract_share: ["占合同需量", "of contract"], billed_kw: ["计费需量", "billed demand"],
  sharp_kwh: ["尖峰电量", "sharp peak"], peak_kwh: ["高峰电量", "peak"], flat_kwh: ["平段电量", "flat"], valley_kwh: ["低谷电量", "valley"], deep_valley_kwh: ["深谷电量", "deep valley"],
  unscheduled_kwh: ["未定时段电量", "in no band"], reactive_kvarh: ["无功电量", "reactive energy"], adjustment: ["力调系数", "power factor adjustment"],
  cost_floating: ["浮动电费", "floating cost"], cost_fixed: ["非浮动电费", "fixed cost"], cost_funds: ["政府性基金", "government funds"], basic_price: ["基本电价", "basic price"],
  cost_demand: ["基本电费", "basic charge"], cost_adjustment: ["力调电费", "adjustment"], cost_total: ["电费合计", "total cost"], price_mean: ["平均电价", "mean price"],
  nee: ["净设备效率", "NEE"], teep: ["完全有效生产率", "TEEP"], utilization_efficiency: ["利用效率", "utilisation efficiency"],
  technical_efficiency: ["技术效率", "technical efficiency"], allocation_efficiency: ["分配效率", "allocation efficiency"], setup_ratio: ["准备率", "set-up ratio"],
  scrap: ["废品", "scrap"], rework: ["返工", "rework"], scrap_ratio: ["废品率", "scrap ratio"], rework_ratio: ["返工率", "rework ratio"],
  throughput_rate: ["产出速率", "throughput"], mtbf_s: ["平均故障间隔", "MTBF"], mttr_s: ["平均修复时间", "MTTR"],
  good_time_s: ["合格品时间", "good time"], quality_loss_s: ["质量损失", "quality loss"], speed_loss_s: ["速度损失", "speed loss"],
  unknown_s: ["产量未知时间", "pieces not known"], fault_s: ["故障时间", "faults"], delay_s: ["延误时间", "delays"], blocked_s: ["下游阻塞", "blocked"], starved_s: ["上游缺料", "starved"],
  micro_stop_s: ["短停时间", "micro-stops"], planned_stop_s: ["计划停机时间", "planned stops"], outside_s: ["计划外时间", "not planned"], not_covered_s: ["状态未知时间", "state not known"],
  overtime_s: ["加班生产时间", "overtime"], overtime_n: ["加班产出", "produced in overtime"], stops: ["停机次数", "stops"], micro_stops: ["短停次数", "number of micro-stops"],
  failures: ["故障次数", "failures"], scheme: ["口径（0 ISO 22400，1 TPM）", "scheme (0 ISO 22400, 1 TPM)"], micro_stop_limit_s: ["短停界限", "micro-stop limit"],
  reason_other_s: ["其他原因停机", "other reasons"],
  so2: ["二氧化硫", "SO₂"], nox: ["氮氧化物", "NOₓ"], no: ["一氧化氮", "NO"], no2: ["二氧化氮", "NO₂"], dust: ["颗粒物", "dust"], pm: ["颗粒物", "dust"],
  co: ["一氧化碳", "CO"], nh3: ["氨", "NH₃"], hg: ["汞", "Hg"], hcl: ["氯化氢", "HCl"], hf: ["氟化物", "HF"], o2: ["含氧量", "O₂"], valid_min: ["有效分钟", "valid minutes"],
  flow: ["流量", "flow"], velocity: ["流速", "velocity"], humidity: ["湿度", "humidity"], moisture: ["湿度", "moisture"],
  electricity: ["电力", "electricity"], "raw-coal": ["原煤", "raw coal"], coal: ["煤", "coal"], "natural-gas": ["天然气", "natural gas"], diesel: ["柴油", "diesel"],
  heat: ["热力", "heat"], steam: ["蒸汽", "steam"], water: ["水", "water"], "fresh-water": ["新水", "fresh water"], "compressed-air": ["压缩空气", "compressed air"],
  active_power: ["有功功率", "active power"], reactive_power: ["无功功率", "reactive power"], apparent_power: ["视在功率", "apparent power"],
  power_factor: ["功率因数", "power factor"], frequency: ["频率", "frequency"], active_energy_import: ["正向有功电能", "energy imported"],
  active_energy_export: ["反向有功电能", "energy exported"], reactive_energy_import: ["正向无功电能", "reactive energy imported"],
  active_energy: ["有功电能", "active energy"], reactive_energy: ["无功电能", "reactive energy"], apparent_energy: ["视在电能", "apparent energy"],
  speed: ["转速", "speed"], feed: ["喂料量", "feed"], burning_zone_temperature: ["烧成带温度", "burning zone temperature"],
  reactive_energy_export: ["反向无功电能", "reactive energy exported"], voltage: ["电压", "voltage"], current: ["电流", "current"],
  temperature: ["温度", "temperature"], pressure: ["压力", "pressure"], mass: ["质量累计", "mass"], rate: ["流量", "rate"], state: ["状态", "state"],
  bags: ["袋数", "bags"], reject: ["剔除", "rejected"], flag: ["仪表标志", "instrument flag"], volume: ["体积累计", "volume"],
};
Object.assign(COLUMNS, {
  main: ["总表", "main meters"], own: ["自产", "own production"], sum_subs: ["分表合计", "sub-meters"], gap: ["不平衡量", "gap"],
  gap_share: ["不平衡率", "gap, share"], unbalanced: ["不平衡", "unbalanced"],
  producing: ["生产", "producing"], setup: ["准备", "set-up"], idle: ["待机", "idle"], fault: ["故障", "fault"],
  planned_stop: ["计划停机", "planned stop"], unknown: ["未知", "unknown"], total_kwh: ["总能耗", "total energy"],
  batch: ["批次", "batch"], start_s: ["开始", "start"], duration_s: ["历时", "duration"], unknown_kgce: ["未知能耗", "unknown energy"],
  unknown_output: ["未知产量", "unknown output"], unknown_s: ["未知时间", "unknown time"], kgce_unknown: ["未知能耗", "unknown energy"], output_unknown: ["未知产量", "unknown output"],
  not_producing_share: ["非生产能耗占比", "share while not producing"], standby_kw: ["待机功率", "standby power"],
});
Object.assign(COLUMNS, { counted: ["电表计数", "counted"], integrated: ["功率积分", "integrated"], deviation: ["偏差", "deviation"], disagrees: ["不一致", "disagrees"] });
Object.assign(WORDS, { water: ["废水排放", "waste water"] });
Object.assign(COLUMNS, {
  cod: ["化学需氧量", "COD"], nh3_n: ["氨氮", "NH₃-N"], tn: ["总氮", "total N"], tp: ["总磷", "total P"], ss: ["悬浮物", "suspended solids"], bod5: ["五日生化需氧量", "BOD₅"], oil: ["石油类", "oil"],
  ph: ["pH", "pH"], ph_min: ["pH 最小值", "lowest pH"], ph_max: ["pH 最大值", "highest pH"], ph_substitute: ["pH 替代值（中位值）", "pH, substitute (median)"],
  volume_m3: ["排水量", "volume"], volume_substituted_m3: ["替代排水量", "volume, substituted"],
});
Object.assign(COLUMNS, {
  active: ["报警条件成立", "condition holds"], value: ["数值", "value"], limit: ["限值", "limit"], priority: ["优先级", "priority"],
  duration_s: ["上一状态持续", "state before lasted"], raised_1h: ["一小时内报警次数", "raised within 1 h"],
});
const SUFFIXES = {
  _volume_m3: ["有效排水量", "volume"], _abnormal: ["数据异常", "abnormal data"], _mass_substituted_kg: ["替代排放量", "mass, substituted"],
  _valid_h: ["有效小时", "valid hours"], _valid_d: ["有效天数", "valid days"], _limit: ["限值", "limit"], _exceeded: ["超标", "limit exceeded"], _exceeded_d: ["超标天数", "days over the limit"],
  _kwh: ["能耗", "energy"], _s: ["时间", "time"],
  _corrected: ["折算", "corrected"], _mass_kg: ["排放量", "mass"], _mass: ["排放量", "mass"], _kgce: ["折标煤", "coal equivalent"],
  _returned: ["回收", "returned"], _returned_kgce: ["回收折标煤", "returned, coal equivalent"], _dry: ["干基", "dry"],
  _total: ["（总）", "total"], _sharp: ["（尖）", "sharp peak"], _peak: ["（峰）", "peak"], _flat: ["（平）", "flat"], _valley: ["（谷）", "valley"],
  _l1: ["A 相", "L1"], _l2: ["B 相", "L2"], _l3: ["C 相", "L3"], _n: ["中性线", "N"], _l12: ["AB", "L1–L2"], _l23: ["BC", "L2–L3"], _l31: ["CA", "L3–L1"],
};
Object.assign(COLUMNS, {  // stack gas
  flow_nm3: ["标干烟气量", "dry gas"], stopped_h: ["停运小时", "hours stopped"],
  running_min: ["正常运行分钟", "minutes running"], start_up_min: ["启动分钟", "minutes of start-up"],
  shut_down_min: ["停机过程分钟", "minutes of shut-down"], stopped_min: ["停运分钟", "minutes stopped"],
  fault_min: ["仪表故障分钟", "minutes of fault"], maintenance_min: ["仪表维护分钟", "minutes of maintenance"], calibration_min: ["仪表标定分钟", "minutes of calibration"],
});
Object.assign(COLUMNS, {
  total_gj: ["综合能耗（热量）", "total energy, GJ"], total_tco2: ["二氧化碳排放", "CO₂"], produced_kgce: ["自产能源", "own production"], output: ["产量", "output"],
  non_fossil_kgce: ["非化石能源", "non-fossil energy"], non_fossil_share: ["非化石能源占比", "non-fossil share"],
  value: ["产值", "output value"], "output-value": ["产值", "output value"], area: ["用地面积", "area"], condensate: ["凝结水", "condensate"],
  intensity_value: ["单位产值综合能耗", "energy per value"], "intensity_output-value": ["单位产值综合能耗", "energy per value"], intensity_area: ["亩均综合能耗", "energy per area"],
});
Object.assign(SUFFIXES, {
  _gj: ["热量", "heat"], _tco2: ["二氧化碳", "CO₂"], _produced: ["自产", "own production"], _produced_kgce: ["自产折标煤", "own production, coal equivalent"],
  _per_output: ["单耗", "per unit"], _per_value: ["单位产值消耗", "per value"], "_per_output-value": ["单位产值消耗", "per value"], _per_area: ["亩均消耗", "per area"],
  _judged: ["考核浓度", "judged"], _mass_substituted_kg: ["替代排放量", "mass, substituted"], _kg_per_t: ["单位产品排放量", "per tonne"],
  _limit: ["限值", "limit"], _exceeded: ["超标", "exceeded"], _exceeded_h: ["超标小时", "hours exceeded"], _judged_h: ["考核小时", "hours judged"],
  _exceeded_d: ["超标天数", "days exceeded"], _judged_d: ["考核天数", "days judged"], _valid_h: ["有效小时", "valid hours"], _valid_d: ["有效天数", "valid days"],
  _capture_rate: ["有效数据捕集率", "valid-data capture rate"],
});
const PREFIXES = { kgce_: ["能耗", "energy"], output_: ["产量", "output"], intensity_: ["单耗", "energy per unit"] };
const STATES = {
  producing: ["生产", "producing"], idle: ["待机", "idle"], fault: ["故障", "fault"], setup: ["准备", "set-up"], planned_stop: ["计划停机", "planned stop"],
  delay: ["延误", "delay"], blocked: ["下游阻塞", "blocked"], starved: ["上游缺料", "starved"], off: ["关机", "off"],
  normal: ["正常", "normal"], maintenance: ["维护", "maintenance"], calibration: ["标定", "calibration"],
};
const QUALITIES = {
  GOOD: ["良好", "good"], GOOD_ROLLOVER: ["良好 · 过零", "good · rollover"], UNCERTAIN: ["存疑", "uncertain"], UNCERTAIN_RANGE: ["存疑 · 超量程", "uncertain · out of range"],
  UNCERTAIN_RESET: ["存疑 · 计数复位", "uncertain · counter reset"], UNCERTAIN_SUBSTITUTED: ["存疑 · 替代值", "uncertain · substituted"],
  UNCERTAIN_CLOCK: ["存疑 · 时钟", "uncertain · clock"], UNCERTAIN_ESTIMATED: ["存疑 · 含估算", "uncertain · estimated"],
  UNCERTAIN_FLAGGED: ["存疑 · 仪表标志", "uncertain · flagged by instrument"], UNCERTAIN_PRECISION: ["存疑 · 精度", "uncertain · rounded"], BAD: ["无效", "bad"],
  BAD_NO_ANSWER: ["无效 · 无应答", "bad · no answer"], BAD_DEVICE: ["无效 · 设备拒绝", "bad · device refused"], BAD_NOT_AVAILABLE: ["无效 · 无数值", "bad · not available"],
  BAD_ADDRESS: ["无效 · 地址错误", "bad · wrong address"], BAD_SHORT: ["无效 · 应答长度", "bad · wrong reply length"], BAD_MISSING: ["无效 · 缺失", "bad · missing"],
};
const UNITS = { "{bag}": ["袋", "bags"], "{piece}": ["件", "pieces"], Cel: ["°C", "°C"], "kW.h": ["kWh", "kWh"], "mg/m3": ["mg/m³", "mg/m³"], "m3/h": ["m³/h", "m³/h"], m3: ["m³", "m³"], "1": ["", ""] };

// what a sink says of its peer comes in English; its meaning in Chinese stands before it
const REASONS = [
  [/connection refused|nobody listens/i, "对方拒绝连接：服务未启动，或地址、端口不对"], [/name or service not known|name resolution|getaddrinfo|nodename/i, "主机名无法解析"],
  [/no route to host|network is unreachable/i, "网络不可达"], [/another client|again and again/i, "相同的客户端标识在别处登录"],
  [/wants TLS/i, "该端口需要 TLS"], [/without TLS|speak TLS/i, "该端口没有 TLS"], [/certificate|cipher|\bSSL\b|authority/i, "TLS 证书不被接受，或时钟不对"],
  [/user or password|not authori[sz]ed|unauthori[sz]ed|answered 40[13]|another way to log in|may not write|mend token/i, "用户名、密码或令牌不被接受，或没有权限"],
  [/client id|banned/i, "客户端标识不被接受"], [/topic/i, "主题不被接受"], [/type conflict/i, "字段类型与库中已有的不同"], [/retention|beyond|too old/i, "超出库的保存期限"],
  [/answered 429|quota|rate limit|busy|no more connections/i, "对方限流或繁忙"], [/answered 413|too (large|big)|of this size/i, "数据包过大"],
  [/answered 404|not found|mend bucket/i, "库、组织或地址不存在"], [/does not speak MQTT|no MQTT broker|no InfluxDB|is it an MQTT|web server answers/i, "对方不是所配置的服务，或版本不符"],
  [/QoS 0/i, "对方不确认消息，无法证明送达"], [/mend url|has moved|another one is to be used/i, "地址需更改"],
  [/silent|timed? ?out|said nothing|answered nothing|come to an end|heard nothing/i, "对方在规定时间内没有应答"], [/answered 5\d\d|not available now|shuts down/i, "对方服务暂时不可用"],
  [/no space left|disk is full|database or disk/i, "磁盘已满"], [/read-?only/i, "磁盘或文件只读"], [/damaged|malformed|not a database/i, "文件已损坏"],
  [/reset by peer|broken pipe|broke off|ended? the connection|closed the connection|connection .*(lost|closed)/i, "连接中断"],
];

export let lang = remembered();

function remembered() {
  try {
    const kept = localStorage.getItem("lang");
    if (kept === "zh" || kept === "en") return kept;
  } catch (e) { console.info("the language cannot be remembered:", e.message); }
  return (navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function speak(next) {
  lang = next;
  try { localStorage.setItem("lang", next); } catch (e) { console.info("the language cannot be remembered:", e.message); }
}

const pick = (pair) => pair[lang === "zh" ? 0 : 1];
export const word = (key) => (WORDS[key] ? pick(WORDS[key]) : key);
export const say = (key, ...values) => word(key).replace(/\{(\d)\}/g, (_, i) => values[i]);
export function reason(text) {
  const meaning = lang === "zh" && REASONS.find(([pattern]) => pattern.test(text));
  return meaning ? `${meaning[1]} (${text})` : text;
}
export const qualityWord = (name) => (QUALITIES[name] ? pick(QUALITIES[name]) : name);
export const stateWord = (name) => (STATES[name] ? pick(STATES[name]) : name);
export const unitWord = (code) => (UNITS[code] ? pick(UNITS[code]) : code);

// "标杆/benchmark": the Chinese and the English name of a level
export function levelWord(name) {
  const cut = name.indexOf("/");
  return cut < 0 ? name : (lang === "zh" ? name.slice(0, cut) : name.slice(cut + 1)).trim();
}

export function columnWord(name) {
  return known(name) ?? ofPart(name) ?? name.replaceAll("_", " ");
}

// "output_cement-425": a figure of one product; the product keeps its name
function ofPart(name) {
  const prefix = Object.keys(PREFIXES).find((p) => name.startsWith(p));
  return prefix ? `${pick(PREFIXES[prefix])} ${name.slice(prefix.length)}` : null;
}

function known(name) {
  if (COLUMNS[name]) return pick(COLUMNS[name]);
  const fits = Object.keys(SUFFIXES).filter((s) => name.endsWith(s)).sort((a, b) => b.length - a.length);
  for (const suffix of fits) {
    const stem = known(name.slice(0, -suffix.length));
    if (stem) return lang === "zh" ? `${stem}\u200b${pick(SUFFIXES[suffix])}` : `${stem}, ${pick(SUFFIXES[suffix])}`;
  }
  return null;
}
