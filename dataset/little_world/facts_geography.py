"""Countries, rivers and mountains. One line an entity, both languages; see `relation.table` for the format."""

from dataset.little_world.relation import table

# country | capital | continent | currency
COUNTRIES = table("""
    中国 China | 北京 Beijing | 亚洲 Asia | 人民币 renminbi
    日本 Japan | 东京 Tokyo | 亚洲 Asia | 日元 yen
    韩国 South Korea | 首尔 Seoul | 亚洲 Asia | 韩元 won
    蒙古国 Mongolia | 乌兰巴托 Ulaanbaatar | 亚洲 Asia | 图格里克 tugrik
    印度 India | 新德里 New Delhi | 亚洲 Asia | 卢比 rupee
    泰国 Thailand | 曼谷 Bangkok | 亚洲 Asia | 泰铢 baht
    越南 Vietnam | 河内 Hanoi | 亚洲 Asia | 越南盾 dong
    马来西亚 Malaysia | 吉隆坡 Kuala Lumpur | 亚洲 Asia | 林吉特 ringgit
    菲律宾 the Philippines | 马尼拉 Manila | 亚洲 Asia | 比索 peso
    巴基斯坦 Pakistan | 伊斯兰堡 Islamabad | 亚洲 Asia | 卢比 rupee
    尼泊尔 Nepal | 加德满都 Kathmandu | 亚洲 Asia | 卢比 rupee
    伊朗 Iran | 德黑兰 Tehran | 亚洲 Asia | 里亚尔 rial
    伊拉克 Iraq | 巴格达 Baghdad | 亚洲 Asia | 第纳尔 dinar
    沙特阿拉伯 Saudi Arabia | 利雅得 Riyadh | 亚洲 Asia | -
    约旦 Jordan | 安曼 Amman | 亚洲 Asia | -
    柬埔寨 Cambodia | 金边 Phnom Penh | 亚洲 Asia | 瑞尔 riel
    缅甸 Myanmar | 内比都 Naypyidaw | 亚洲 Asia | 缅元 kyat
    哈萨克斯坦 Kazakhstan | 阿斯塔纳 Astana | 亚洲 Asia | 坚戈 tenge
    英国 the United Kingdom | 伦敦 London | 欧洲 Europe | 英镑 pound
    法国 France | 巴黎 Paris | 欧洲 Europe | 欧元 euro
    德国 Germany | 柏林 Berlin | 欧洲 Europe | 欧元 euro
    意大利 Italy | 罗马 Rome | 欧洲 Europe | 欧元 euro
    西班牙 Spain | 马德里 Madrid | 欧洲 Europe | 欧元 euro
    葡萄牙 Portugal | 里斯本 Lisbon | 欧洲 Europe | -
    希腊 Greece | 雅典 Athens | 欧洲 Europe | 欧元 euro
    俄罗斯 Russia | 莫斯科 Moscow | 欧洲 Europe | 卢布 ruble
    波兰 Poland | 华沙 Warsaw | 欧洲 Europe | 兹罗提 zloty
    瑞典 Sweden | 斯德哥尔摩 Stockholm | 欧洲 Europe | -
    挪威 Norway | 奥斯陆 Oslo | 欧洲 Europe | 克朗 krone
    芬兰 Finland | 赫尔辛基 Helsinki | 欧洲 Europe | 欧元 euro
    丹麦 Denmark | 哥本哈根 Copenhagen | 欧洲 Europe | 克朗 krone
    冰岛 Iceland | 雷克雅未克 Reykjavik | 欧洲 Europe | -
    爱尔兰 Ireland | 都柏林 Dublin | 欧洲 Europe | 欧元 euro
    奥地利 Austria | 维也纳 Vienna | 欧洲 Europe | -
    比利时 Belgium | 布鲁塞尔 Brussels | 欧洲 Europe | -
    匈牙利 Hungary | 布达佩斯 Budapest | 欧洲 Europe | 福林 forint
    克罗地亚 Croatia | 萨格勒布 Zagreb | 欧洲 Europe | -
    乌克兰 Ukraine | 基辅 Kyiv | 欧洲 Europe | -
    埃及 Egypt | 开罗 Cairo | 非洲 Africa | -
    肯尼亚 Kenya | 内罗毕 Nairobi | 非洲 Africa | 先令 shilling
    埃塞俄比亚 Ethiopia | 亚的斯亚贝巴 Addis Ababa | 非洲 Africa | 比尔 birr
    摩洛哥 Morocco | 拉巴特 Rabat | 非洲 Africa | 迪拉姆 dirham
    尼日利亚 Nigeria | 阿布贾 Abuja | 非洲 Africa | 奈拉 naira
    加纳 Ghana | 阿克拉 Accra | 非洲 Africa | -
    塞内加尔 Senegal | 达喀尔 Dakar | 非洲 Africa | -
    阿尔及利亚 Algeria | 阿尔及尔 Algiers | 非洲 Africa | 第纳尔 dinar
    赞比亚 Zambia | 卢萨卡 Lusaka | 非洲 Africa | -
    美国 the United States | 华盛顿 Washington | 北美洲 North America | 美元 US dollar
    加拿大 Canada | 渥太华 Ottawa | 北美洲 North America | 加元 Canadian dollar
    墨西哥 Mexico | 墨西哥城 Mexico City | 北美洲 North America | 比索 peso
    古巴 Cuba | 哈瓦那 Havana | 北美洲 North America | -
    巴西 Brazil | 巴西利亚 Brasilia | 南美洲 South America | 雷亚尔 real
    阿根廷 Argentina | 布宜诺斯艾利斯 Buenos Aires | 南美洲 South America | 比索 peso
    智利 Chile | 圣地亚哥 Santiago | 南美洲 South America | 比索 peso
    秘鲁 Peru | 利马 Lima | 南美洲 South America | 索尔 sol
    哥伦比亚 Colombia | 波哥大 Bogota | 南美洲 South America | -
    厄瓜多尔 Ecuador | 基多 Quito | 南美洲 South America | 美元 US dollar
    乌拉圭 Uruguay | 蒙得维的亚 Montevideo | 南美洲 South America | -
    委内瑞拉 Venezuela | 加拉加斯 Caracas | 南美洲 South America | -
    澳大利亚 Australia | 堪培拉 Canberra | 大洋洲 Oceania | 澳元 Australian dollar
    新西兰 New Zealand | 惠灵顿 Wellington | 大洋洲 Oceania | -
    斐济 Fiji | 苏瓦 Suva | 大洋洲 Oceania | -
""")

# river | the country it flows through (rivers that stay inside one country)
RIVERS = table("""
    长江 the Yangtze | 中国 China
    黄河 the Yellow River | 中国 China
    松花江 the Songhua River | 中国 China
    信浓川 the Shinano | 日本 Japan
    汉江 the Han River | 韩国 South Korea
    湄南河 the Chao Phraya | 泰国 Thailand
    伊洛瓦底江 the Irrawaddy | 缅甸 Myanmar
    哥达瓦里河 the Godavari | 印度 India
    克里希纳河 the Krishna | 印度 India
    卡伦河 the Karun | 伊朗 Iran
    泰晤士河 the Thames | 英国 the United Kingdom
    塞文河 the Severn | 英国 the United Kingdom
    塞纳河 the Seine | 法国 France
    卢瓦尔河 the Loire | 法国 France
    威悉河 the Weser | 德国 Germany
    台伯河 the Tiber | 意大利 Italy
    阿诺河 the Arno | 意大利 Italy
    埃布罗河 the Ebro | 西班牙 Spain
    伏尔加河 the Volga | 俄罗斯 Russia
    勒拿河 the Lena | 俄罗斯 Russia
    维斯瓦河 the Vistula | 波兰 Poland
    香农河 the Shannon | 爱尔兰 Ireland
    格洛马河 the Glomma | 挪威 Norway
    塔纳河 the Tana | 肯尼亚 Kenya
    密西西比河 the Mississippi | 美国 the United States
    哈得孙河 the Hudson | 美国 the United States
    马更些河 the Mackenzie | 加拿大 Canada
    圣弗朗西斯科河 the Sao Francisco | 巴西 Brazil
    马格达莱纳河 the Magdalena | 哥伦比亚 Colombia
    墨累河 the Murray | 澳大利亚 Australia
    怀卡托河 the Waikato | 新西兰 New Zealand
""")

# mountain | the country it stands in (mountains that are no border)
MOUNTAINS = table("""
    泰山 Mount Tai | 中国 China
    华山 Mount Hua | 中国 China
    峨眉山 Mount Emei | 中国 China
    富士山 Mount Fuji | 日本 Japan
    汉拿山 Hallasan | 韩国 South Korea
    京那巴鲁山 Mount Kinabalu | 马来西亚 Malaysia
    阿波火山 Mount Apo | 菲律宾 the Philippines
    达马万德山 Mount Damavand | 伊朗 Iran
    阿勒山 Mount Ararat | 土耳其 Turkey
    厄尔布鲁士山 Mount Elbrus | 俄罗斯 Russia
    埃特纳火山 Mount Etna | 意大利 Italy
    维苏威火山 Vesuvius | 意大利 Italy
    奥林波斯山 Mount Olympus | 希腊 Greece
    本尼维斯山 Ben Nevis | 英国 the United Kingdom
    斯诺登山 Snowdon | 英国 the United Kingdom
    泰德峰 Mount Teide | 西班牙 Spain
    大格洛克纳山 the Grossglockner | 奥地利 Austria
    布罗肯峰 the Brocken | 德国 Germany
    赫克拉火山 Hekla | 冰岛 Iceland
    凯布讷山 Kebnekaise | 瑞典 Sweden
    乞力马扎罗山 Mount Kilimanjaro | 坦桑尼亚 Tanzania
    图卜卡勒峰 Mount Toubkal | 摩洛哥 Morocco
    迪纳利山 Denali | 美国 the United States
    雷尼尔山 Mount Rainier | 美国 the United States
    洛根山 Mount Logan | 加拿大 Canada
    波波卡特佩特火山 Popocatepetl | 墨西哥 Mexico
    阿空加瓜山 Aconcagua | 阿根廷 Argentina
    瓦斯卡兰山 Huascaran | 秘鲁 Peru
    科托帕希火山 Cotopaxi | 厄瓜多尔 Ecuador
    科修斯科山 Mount Kosciuszko | 澳大利亚 Australia
    库克山 Mount Cook | 新西兰 New Zealand
""")
